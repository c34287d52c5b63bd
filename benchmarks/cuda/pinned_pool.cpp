// What a block of the pinned pool costs where one stands ready: nanoseconds of one take and one
// free, best of a number of rounds. No GPU is needed: nothing is registered, and a hit calls no
// CUDA anyway.
//
//   dlbridge_pinned_pool_benchmark [rounds]
#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include "pinned_pool.h"

namespace {

using dlbridge::cuda::CudaApi;
using dlbridge::cuda::Fence;
using dlbridge::cuda::FenceSource;
using dlbridge::cuda::PinnedBlock;
using dlbridge::cuda::PinnedPool;
using dlbridge::cuda::PooledEvent;

constexpr size_t kBytes = 4096;
constexpr size_t kThreads = 8;
constexpr int kTakes = 200'000;

CudaApi table_without_device() {
  CudaApi api{};
  api.host_register = [](void*, size_t, unsigned) { return cudaSuccess; };
  api.host_unregister = [](void*) { return cudaSuccess; };
  api.peek_at_last_error = [] { return cudaSuccess; };
  api.get_last_error = [] { return cudaSuccess; };
  api.thread_exchange_stream_capture_mode = [](cudaStreamCaptureMode*) { return cudaSuccess; };
  return api;
}

class NoFences final : public FenceSource {
 public:
  Fence fence() noexcept override { return {}; }
  int passed(const PooledEvent&) noexcept override { return 1; }
};

// The time of this thread on a processor: with fewer processors than threads, what it waits for one
// is not the pool's.
double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double nanoseconds_of(int count, const std::function<void()>& action) {
  const double begin = thread_seconds();
  action();
  return (thread_seconds() - begin) * 1e9 / count;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double run_threads(const std::function<void(size_t self, std::barrier<>& gate, double&)>& body) {
  std::vector<double> times(kThreads);
  std::barrier gate(kThreads);
  std::vector<std::jthread> threads;
  for (size_t self = 0; self < kThreads; ++self)
    threads.emplace_back([&, self] { body(self, gate, times[self]); });
  threads.clear();
  return median(times);
}

double one_thread(PinnedPool& pool) {
  return nanoseconds_of(kTakes, [&] {
    for (int i = 0; i < kTakes; ++i) pool.take(kBytes);
  });
}

double one_thread_sixteen_held(PinnedPool& pool) {
  std::array<PinnedBlock, 16> held;
  return nanoseconds_of(kTakes, [&] {
    for (int i = 0; i < kTakes; ++i) held[static_cast<size_t>(i) % held.size()] = pool.take(kBytes);
  });
}

double eight_threads(PinnedPool& pool) {
  return run_threads([&](size_t, std::barrier<>& gate, double& time) {
    gate.arrive_and_wait();
    time = one_thread(pool);
  });
}

// Every thread takes blocks and frees those that its neighbour took.
double eight_threads_crossing(PinnedPool& pool) {
  constexpr size_t kBatch = 64;
  struct alignas(64) Way {
    std::atomic<bool> full{false};
    std::array<PinnedBlock, kBatch> blocks;
  };
  std::array<Way, kThreads> ways;
  return run_threads([&](size_t self, std::barrier<>& gate, double& time) {
    Way& from = ways[self];
    Way& to = ways[(self + 1) % kThreads];
    time = 0;
    for (size_t round = 0; round < kTakes / kBatch; ++round) {
      time += nanoseconds_of(kTakes, [&] {
        for (PinnedBlock& block : to.blocks) block = pool.take(kBytes);
      });
      gate.arrive_and_wait();
      time += nanoseconds_of(kTakes, [&] {
        for (PinnedBlock& block : from.blocks) block = PinnedBlock();
      });
      gate.arrive_and_wait();
    }
  });
}

// As a user does it: the result is released, and its block comes back behind a fence.
double results(PinnedPool& pool) {
  return nanoseconds_of(kTakes, [&] {
    for (int i = 0; i < kTakes; ++i) {
      const dlbridge::Owner owner = pool.take(kBytes).into_owner();
      owner.release(owner.context);
    }
  });
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 9;
  const CudaApi api = table_without_device();
  NoFences fences;
  PinnedPool pool(api, fences, size_t{64} << 20);
  const struct {
    const char* name;
    double (*run)(PinnedPool&);
    double bar;  // 0: none
  } cases[] = {
      {"one thread", one_thread, 80},
      {"one thread, 16 held", one_thread_sixteen_held, 80},
      {"8 threads", eight_threads, 250},
      {"8 threads, freed by another", eight_threads_crossing, 250},
      {"one thread, released as a result", results, 0},
  };
  for (const auto& one : cases) {
    double best = 1e30;
    for (int round = 0; round < rounds; ++round) best = std::min(best, one.run(pool));
    std::printf("%-34s %7.1f ns", one.name, best);
    if (one.bar > 0) std::printf("   (bar %.0f)", one.bar);
    std::printf("\n");
  }
  return 0;
}
