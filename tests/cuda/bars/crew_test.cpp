// SPDX-License-Identifier: Apache-2.0
// Threads that stand ready.
#include "crew.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>

namespace dlbridge::bars {
namespace {

TEST(Crew, GivesEveryIndexToOneThread) {
  Crew crew(4);
  for (int threads = 1; threads <= 4; ++threads) {
    for (int turn = 0; turn < 50; ++turn) {
      std::array<std::atomic<int>, 4> runs{};
      crew.start(threads, [&](int index) { ++runs[static_cast<size_t>(index)]; });
      crew.finish();
      for (int i = 0; i < 4; ++i) EXPECT_EQ(runs[static_cast<size_t>(i)], i < threads ? 1 : 0);
    }
  }
}

TEST(Crew, EndsWithoutEverHavingWorked) {
  const Crew crew(3);
  EXPECT_EQ(crew.size(), 3);
}

}  // namespace
}  // namespace dlbridge::bars
