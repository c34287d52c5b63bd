// SPDX-License-Identifier: Apache-2.0
// A thousand orders of things: mixed stagings from two threads under seeded schedules, each of
// which is one that CUDA might choose. A correct module gives right bytes and not one report.
//
// The seeds 1 to 1000 are in ten cases of a hundred; each case walks all paths. Under
// ThreadSanitizer every tenth seed runs.
#include <functional>
#include <map>
#include <random>

#include "dlbridge/cuda/device_memory.h"
#include "staging_paths.h"

namespace dlbridge::test {
namespace {

class StagingSchedules : public StagingPathTest {
 protected:
  // The paths with less to carry: the same ways, a thousand times.
  static std::vector<StagingPath> light_paths() {
    std::vector<StagingPath> paths = staging_paths();
    for (StagingPath& path : paths) {
      if (path.layout.span < 65536) continue;
      if (path.name.starts_with("strided") || path.name.starts_with("batch"))
        path.layout = Layout({35, 500}, {1100, 2});  // 70 kB
      else if (path.name.starts_with("large") && path.side == HostSide::fresh)
        path.layout = Layout({17'000});
    }
    return paths;
  }

  void run(Schedule schedule, uint64_t seed) {
    Config config;
    config.schedule = schedule;
    config.seed = seed;
    config.reuse_addresses = seed % 2 == 0;
    if (seed % 3 == 0) config.device_memory_bytes = size_t{3} << 20;
    start(config);
    run_threads(2, 3, seed, {});
    ++schedules_;
  }

  // Each of `count` threads takes `steps` paths, or others of `between` where it draws one.
  void run_threads(uint64_t count, int steps, uint64_t seed,
                   const std::vector<std::function<void(uint64_t)>>& between) {
    const std::vector<StagingPath> paths = light_paths();
    const CUstream shared = stream();
    std::vector<std::thread> threads;
    for (uint64_t thread = 0; thread < count; ++thread) {
      threads.emplace_back([&, thread] {
        sim().use_device(1);
        std::mt19937_64 random(seed * count + thread);
        for (int i = 0; i < steps; ++i) {
          if (!between.empty() && random() % 2 == 0) {
            between[random() % between.size()](random());
            continue;
          }
          const StagingPath& path = paths[random() % paths.size()];
          Walk how;
          how.seed = static_cast<uint32_t>(random() % 1000);
          if (random() % 3 == 0) how.stream = shared;
          const std::optional<Error> error = walk(path, how);
          EXPECT_FALSE(error) << path << ": " << error->what();
          const std::lock_guard lock(walked_mutex_);
          ++walked_[path.name];
        }
      });
    }
    for (std::thread& each : threads) each.join();
    EXPECT_TRUE(cuda::drain(20));
  }

  // Runs `body`, which may meet a pool that another thread has closed.
  static void expect_room(const std::function<void()>& body) {
    const std::optional<Error> error = error_of(body);
    EXPECT_EQ(error ? name(error->code()) : "out_of_memory", std::string("out_of_memory"));
  }

  int schedules_ = 0;
  std::map<std::string, int> walked_;

 private:
  std::mutex walked_mutex_;
};

constexpr uint64_t kSeeds = 1000;
constexpr uint64_t kSeedsPerCase = 100;

class RandomSchedules : public StagingSchedules, public testing::WithParamInterface<uint64_t> {};

TEST_P(RandomSchedules, CopyCorrectly) {
  for (uint64_t seed = GetParam(); seed < GetParam() + kSeedsPerCase; seed += kOneIn) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    run(Schedule::random, seed);
    if (HasFailure()) return;
  }
  EXPECT_EQ(static_cast<uint64_t>(schedules_), kSeedsPerCase / kOneIn);
  RecordProperty("schedules", schedules_);
  if (kOneIn == 1) {
    EXPECT_EQ(walked_.size(), staging_paths().size());
  }
}

INSTANTIATE_TEST_SUITE_P(From, RandomSchedules,
                         testing::Range<uint64_t>(1, kSeeds + 1, kSeedsPerCase),
                         testing::PrintToStringParamName());

TEST_F(StagingSchedules, TheEarliestAndTheLatest) {
  for (uint64_t seed = 1; seed <= 50; seed += kOneIn) {
    for (const Schedule schedule : {Schedule::eager, Schedule::lazy}) {
      SCOPED_TRACE("seed " + std::to_string(seed));
      run(schedule, seed);
      if (HasFailure()) return;
    }
  }
}

// For the sanitizers: every kind of staging beside pinned and device memory that comes and goes, a
// pool that grows and is trimmed, and results that other threads drop.
TEST_F(StagingSchedules, EightThreadsMixEverything) {
  start({.schedule = Schedule::random, .seed = 5, .reuse_addresses = true});
  const TestTensor& x = device({{30'000}});
  const TestTensor& strided = device({{200, 50}, {120, 2}});
  std::mutex dropping;
  Loan dropped;
  const std::vector<std::function<void(uint64_t)>> between = {
      [&](uint64_t) {  // the next thread drops it
        Loan result = cuda::stage_to_host(x.view(), numbered(cuda::kNoSync));
        EXPECT_EQ(elements(result), elements_with(x, 1));
        const std::lock_guard lock(dropping);
        std::swap(result, dropped);
      },
      [&](uint64_t value) {
        expect_room([&] {
          const Loan pinned = cuda::pinned_empty(Shaped({1 + int64_t(value % 9999)}).view());
          *static_cast<uint8_t*>(pinned.view().data) = 1;
          cuda::record_stream(pinned.view().data, numbered(2));
        });
      },
      [&](uint64_t value) { cuda::trim_pinned(value % (size_t{4} << 20)); },
      [&](uint64_t value) {
        expect_room([&] { cuda::reserve_pinned(value % (size_t{4} << 20)); });
      },
      [&](uint64_t) {
        const Loan on_device = cuda::device_empty(strided.view(), numbered(2));
        cuda::record_device_stream(on_device.deleter(), numbered(1));
      },
      [&](uint64_t) {
        const cuda::PinnedStats stats = cuda::pinned_stats();
        EXPECT_EQ(stats.registered,
                  stats.free + stats.owned + stats.in_flight + stats.quarantined + stats.leaked);
      },
      [&](uint64_t) {  // its end is left to the fixture
        Loan loan;
        loan.describe(strided.view());
        static_cast<void>(cuda::stage_to_host_async(std::move(loan), numbered(2)));
      },
  };
  run_threads(8, 60, 5, between);
  dropped.reset();
}

}  // namespace
}  // namespace dlbridge::test
