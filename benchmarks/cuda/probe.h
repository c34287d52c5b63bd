// SPDX-License-Identifier: Apache-2.0
// What the cases of dlbridge_cuda_probe share: answers, streams, memory.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace dlbridge::probe {

struct Case {
  const char* name;
  std::function<void()> body;  ///< gives its answers by say(); throws where it cannot go on
};
std::vector<Case> questions();
std::vector<Case> timings();  ///< their names begin with "time:"

constexpr size_t kKiB = 1024, kMiB = 1024 * kKiB, kGiB = 1024 * kMiB;
using Clock = std::chrono::steady_clock;

inline double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}
inline void nap(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

// ---- Answers

inline std::string running;  // the case

inline void say(const std::string& fact, const std::string& value) {
  std::printf("{\"case\": \"%s\", \"fact\": \"%s\", \"value\": \"%s\"}\n", running.c_str(),
              fact.c_str(), value.c_str());
  std::fflush(stdout);
}
inline void say(const std::string& fact, double value, const char* unit) {
  char text[64];
  std::snprintf(text, sizeof text, "%.4g %s", value, unit);
  say(fact, text);
}
/// Of times in seconds: the median and the 90 % quantile, in `unit`s of `scale` seconds.
inline void say_times(const std::string& fact, std::vector<double> seconds, double scale,
                      const char* unit) {
  std::sort(seconds.begin(), seconds.end());
  char text[96];
  std::snprintf(text, sizeof text, "%.4g %s (90 %%: %.4g)", seconds[seconds.size() / 2] / scale,
                unit, seconds[seconds.size() * 9 / 10] / scale);
  say(fact, text);
}
inline std::string name_of(cudaError_t error) {
  return std::to_string(error) + " " + cudaGetErrorName(error);
}
inline void must(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(call) + ": " + name_of(error));
}
#define MUST(call) must(call, #call)

template <typename Function>
Function driver(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  must(cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result), name);
  if (found == nullptr) throw std::runtime_error(std::string("the driver has no ") + name);
  return reinterpret_cast<Function>(found);
}

// ---- Streams and memory

inline cudaStream_t new_stream(unsigned flags = cudaStreamNonBlocking) {
  cudaStream_t stream = nullptr;
  MUST(cudaStreamCreateWithFlags(&stream, flags));
  return stream;
}
inline cudaEvent_t new_event(unsigned flags = cudaEventDisableTiming) {
  cudaEvent_t event = nullptr;
  MUST(cudaEventCreateWithFlags(&event, flags));
  return event;
}
inline char* device_memory(size_t bytes) {
  void* memory = nullptr;
  MUST(cudaMalloc(&memory, bytes));
  return static_cast<char*>(memory);
}
inline char* pinned_memory(size_t bytes) {
  void* memory = nullptr;
  MUST(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable));
  return static_cast<char*>(memory);
}
inline char* pages(size_t bytes, int sharing = MAP_PRIVATE) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("mmap failed");
  return static_cast<char*>(memory);
}
/// fn(first, size) for each thread's share of `bytes`.
inline void in_parallel(int threads, size_t bytes, const std::function<void(size_t, size_t)>& fn) {
  std::vector<std::thread> crew;
  const size_t share = bytes / static_cast<size_t>(threads);
  for (int i = 1; i < threads; ++i) crew.emplace_back(fn, static_cast<size_t>(i) * share, share);
  fn(0, share);
  for (std::thread& one : crew) one.join();
}
inline void touch(char* memory, size_t bytes, int threads = 4) {
  in_parallel(threads, bytes, [&](size_t first, size_t size) {
    for (size_t i = first; i < first + size; i += 4096) memory[i] = 1;
  });
}

}  // namespace dlbridge::probe
