// SPDX-License-Identifier: Apache-2.0
// A thousand orders of things: mixed stagings from two threads under seeded schedules, each of
// which is one that CUDA might choose. A correct module gives right bytes and not one report.
//
// The seeds 1 to 1000 are in ten cases of a hundred; each case walks all paths. Under
// ThreadSanitizer every tenth seed runs.
#include <map>
#include <random>

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
    const std::vector<StagingPath> paths = light_paths();
    const cudaStream_t shared = stream();
    std::vector<std::thread> threads;
    for (uint64_t thread = 0; thread < 2; ++thread) {
      threads.emplace_back([&, thread] {
        sim().use_device(1);
        std::mt19937_64 random(seed * 2 + thread);
        for (uint32_t i = 0; i < 3; ++i) {
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
    ++schedules_;
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

}  // namespace
}  // namespace dlbridge::test
