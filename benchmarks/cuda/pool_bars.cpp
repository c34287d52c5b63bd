// SPDX-License-Identifier: Apache-2.0
// dlbridge_cuda_pool_bars: what a block of the pinned pool costs where one stands ready, on a real
// GPU. Linked with the library's objects, since the pool is not public.
//
// Same arguments and exit codes as dlbridge_cuda_bars.
#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <cstdio>
#include <exception>
#include <regex>
#include <thread>
#include <utility>
#include <vector>

#include "bar.h"
#include "contest.h"
#include "device/engine.h"
#include "options.h"
#include "raw_cuda.h"
#include "report.h"
#include "runtime/guards.h"

namespace dlbridge::bars {
namespace {

constexpr size_t kBytes = 4096;
constexpr int kThreads = 8;
constexpr int kTakes = 200'000;

struct PoolCase {
  const char* name;
  Bar bar;
  double (*nanoseconds)(cuda::PinnedPool& pool, int device);  ///< of one take and one free
};

// Sixteen live blocks, so that it is not always the same one.
double one_thread(cuda::PinnedPool& pool, int) {
  std::array<cuda::PinnedBlock, 16> held;
  const double seconds = timed([&] {
    for (int i = 0; i < kTakes; ++i) held[static_cast<size_t>(i) % held.size()] = pool.take(kBytes);
  });
  return seconds * 1e9 / kTakes;
}

// A way for blocks from one thread to the next: one writer, one reader.
class Pipe {
 public:
  bool push(cuda::PinnedBlock& block) {
    const size_t end = end_.load(std::memory_order_relaxed);
    if (end - begin_.load(std::memory_order_acquire) == blocks_.size()) return false;
    blocks_[end % blocks_.size()] = std::move(block);
    end_.store(end + 1, std::memory_order_release);
    return true;
  }
  // Frees what stands there on this thread. Whether there was a block.
  bool pop() {
    const size_t begin = begin_.load(std::memory_order_relaxed);
    if (begin == end_.load(std::memory_order_acquire)) return false;
    blocks_[begin % blocks_.size()] = {};
    begin_.store(begin + 1, std::memory_order_release);
    return true;
  }

 private:
  std::array<cuda::PinnedBlock, 64> blocks_;
  alignas(64) std::atomic<size_t> begin_ = 0;
  alignas(64) std::atomic<size_t> end_ = 0;
};

// Every thread takes blocks and hands each to the next thread, which frees it.
double eight_threads(cuda::PinnedPool& pool, int device) {
  std::array<Pipe, kThreads> pipes;
  std::array<double, kThreads> seconds{};
  std::barrier gate(kThreads);
  std::vector<std::jthread> threads;
  for (size_t self = 0; self < kThreads; ++self) {
    threads.emplace_back([&, self] {
      Pipe& from = pipes[self];
      Pipe& to = pipes[(self + 1) % kThreads];
      must(cudaSetDevice(device), "cudaSetDevice");
      gate.arrive_and_wait();
      seconds[self] = timed([&] {
        for (int i = 0; i < kTakes; ++i) {
          cuda::PinnedBlock block = pool.take(kBytes);
          to.push(block);  // where the next one is behind, the block is freed here
          from.pop();
        }
      });
      gate.arrive_and_wait();
      while (from.pop()) continue;
    });
  }
  threads.clear();
  std::sort(seconds.begin(), seconds.end());
  return (seconds[kThreads / 2 - 1] + seconds[kThreads / 2]) / 2 * 1e9 / kTakes;
}

const std::array<PoolCase, 2>& pool_cases() {
  static const std::array<PoolCase, 2> cases{
      PoolCase{"pool/one-thread",
               {"pool hit, one thread", "a take and a free", Sense::at_most, 80, {}, "ns"},
               one_thread},
      PoolCase{"pool/eight-threads",
               {"pool hit, eight threads, freed by another",
                "a take and a free",
                Sense::at_most,
                250,
                {},
                "ns"},
               eight_threads}};
  return cases;
}

bool is_chosen(const PoolCase& one, const Options& options) {
  return options.only.empty() || std::regex_search(one.name, std::regex(options.only));
}

int measure(const Options& options) {
  must(cudaSetDevice(options.device), "cudaSetDevice");
  must(cudaFree(nullptr), "cudaFree");  // a context, for the pool to register memory in
  cudaDeviceProp properties{};
  must(cudaGetDeviceProperties(&properties, options.device), "cudaGetDeviceProperties");
  cuda::Engine& engine = cuda::Engine::get();
  const cuda::CallGuard guard(engine.api(), engine.device(options.device).context());
  Report report({{"device", properties.name}, {"seed", std::to_string(options.seed)}});
  for (const PoolCase& one : pool_cases()) {
    if (!is_chosen(one, options)) continue;
    if (one.nanoseconds == eight_threads && std::thread::hardware_concurrency() < kThreads) {
      report.add(not_measured(one.bar, "skipped", "the machine has fewer than eight processors"));
      continue;
    }
    try {
      std::vector<double> values;
      for (int round = -3; round < options.rounds; ++round) {
        const double nanoseconds = one.nanoseconds(engine.pool(), options.device);
        if (round >= 0) values.push_back(nanoseconds);
      }
      report.add(line_of(one.bar, values, ""));
    } catch (const std::exception& error) {
      report.add(not_measured(one.bar, "BROKEN", error.what()));
    }
  }
  return 0;
}

int main_of(int argc, const char* const* argv) {
  Options options;
  try {
    options = parse_options(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dlbridge_cuda_pool_bars: %s\n", error.what());
    return 2;
  }
  if (options.list) {
    for (const PoolCase& one : pool_cases())
      std::printf("%s: %s (%s)\n", one.name, one.bar.name.c_str(), one.bar.figure.c_str());
    return 0;
  }
  const cuda::Availability found = cuda::availability();
  if (!found.usable) {
    std::fprintf(stderr, "%s: nothing measured (%s)\n",
                 found.reason == ErrorCode::no_driver ? "no CUDA driver" : "no GPU to use",
                 found.message.c_str());
    return 3;
  }
  try {
    return measure(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dlbridge_cuda_pool_bars: %s\n", error.what());
    return 1;
  }
}

}  // namespace
}  // namespace dlbridge::bars

int main(int argc, char** argv) { return dlbridge::bars::main_of(argc, argv); }
