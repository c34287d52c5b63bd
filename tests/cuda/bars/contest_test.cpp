// SPDX-License-Identifier: Apache-2.0
// Taking turns.
#include "contest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace dlbridge::bars {
namespace {

// Contenders that write down when they ran, and answer with the number of the turn.
struct Recorded {
  std::vector<Contender> contenders(int count) {
    std::vector<Contender> out;
    for (int i = 0; i < count; ++i) {
      out.push_back({std::string(1, static_cast<char>('a' + i)), [this, i] {
                       order.push_back(i);
                       return static_cast<double>(order.size());
                     }});
    }
    return out;
  }
  std::vector<int> order;
};

TEST(Interleave, RunsEachOnceARoundAndDropsWarmUps) {
  Recorded recorded;
  std::mt19937_64 random(1);
  const auto series = interleave(recorded.contenders(3), {3, 15}, random);
  ASSERT_EQ(recorded.order.size(), 3u * 18);
  for (size_t round = 0; round < 18; ++round) {
    const auto begin = recorded.order.begin() + static_cast<std::ptrdiff_t>(3 * round);
    EXPECT_EQ(std::set<int>(begin, begin + 3).size(), 3u) << "round " << round;
  }
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(series[i].name, std::string(1, static_cast<char>('a' + i)));
    ASSERT_EQ(series[i].seconds.size(), 15u);
    for (size_t round = 0; round < 15; ++round) {
      // The times of one round stand at one index: turns 10 to 12 are the first after warm-ups.
      const auto turn = static_cast<size_t>(series[i].seconds[round]);
      EXPECT_EQ((turn - 1) / 3, round + 3);
      EXPECT_EQ(recorded.order[turn - 1], static_cast<int>(i));
    }
  }
}

TEST(Interleave, ChangesTheOrder) {
  Recorded recorded;
  std::mt19937_64 random(1);
  static_cast<void>(interleave(recorded.contenders(3), {0, 60}, random));
  std::set<std::vector<int>> orders;
  for (auto turn = recorded.order.begin(); turn != recorded.order.end(); turn += 3)
    orders.insert({turn, turn + 3});
  EXPECT_EQ(orders.size(), 6u);
}

TEST(Interleave, TakesItsOrderFromTheSeed) {
  const auto order_of = [](uint64_t seed) {
    Recorded recorded;
    std::mt19937_64 random(seed);
    static_cast<void>(interleave(recorded.contenders(4), {0, 20}, random));
    return recorded.order;
  };
  EXPECT_EQ(order_of(3), order_of(3));
  EXPECT_NE(order_of(3), order_of(4));
}

TEST(Timed, MeasuresTheBody) {
  const double seconds = timed([] {
    const Stopwatch watch;
    while (watch.seconds() < 2e-3) continue;
  });
  EXPECT_GE(seconds, 2e-3);
}

}  // namespace
}  // namespace dlbridge::bars
