// Medians, percentiles and the bootstrap interval.
#include "statistics.h"

#include <gtest/gtest.h>

#include <random>
#include <stdexcept>

namespace dlbridge::bars {
namespace {

TEST(Quantile, IsTheMiddleOfTheSortedValues) {
  EXPECT_DOUBLE_EQ(median(std::vector{3.0, 1.0, 2.0}), 2.0);
  EXPECT_DOUBLE_EQ(median(std::vector{4.0, 1.0, 3.0, 2.0}), 2.5);
  EXPECT_DOUBLE_EQ(median(std::vector{7.0}), 7.0);
}

TEST(Quantile, InterpolatesBetweenNeighbours) {
  const std::vector<double> values{50, 10, 40, 20, 30};
  EXPECT_DOUBLE_EQ(quantile(values, 0), 10);
  EXPECT_DOUBLE_EQ(quantile(values, 1), 50);
  EXPECT_DOUBLE_EQ(quantile(values, 0.25), 20);
  EXPECT_DOUBLE_EQ(quantile(values, 0.99), 49.6);
}

TEST(Quantile, RefusesNothingAndSharesOutsideOne) {
  EXPECT_THROW(median({}), std::invalid_argument);
  EXPECT_THROW(quantile(std::vector{1.0}, -0.1), std::invalid_argument);
  EXPECT_THROW(quantile(std::vector{1.0}, 1.1), std::invalid_argument);
}

TEST(Ratios, ArePairwise) {
  EXPECT_EQ(ratios(std::vector{2.0, 9.0}, std::vector{4.0, 3.0}), (std::vector{0.5, 3.0}));
  EXPECT_THROW(ratios(std::vector{2.0}, std::vector{4.0, 3.0}), std::invalid_argument);
  EXPECT_THROW(ratios(std::vector{2.0}, std::vector{0.0}), std::invalid_argument);
}

TEST(BootstrapMedian, OfEqualValuesIsThatValue) {
  const Interval interval = bootstrap_median(std::vector<double>(15, 0.97), 1);
  EXPECT_DOUBLE_EQ(interval.median, 0.97);
  EXPECT_DOUBLE_EQ(interval.low, 0.97);
  EXPECT_DOUBLE_EQ(interval.high, 0.97);
}

TEST(BootstrapMedian, IsTheSameForTheSameSeed) {
  const std::vector<double> values{1.0, 1.3, 0.8, 1.1, 0.9, 1.25, 1.05};
  const Interval once = bootstrap_median(values, 5);
  const Interval again = bootstrap_median(values, 5);
  EXPECT_EQ(once.low, again.low);
  EXPECT_EQ(once.high, again.high);
}

// Of three values the low bound is the smallest one unless that is drawn twice in less than 2.5 of
// 100 samples: it is drawn at least twice in 7 of 27.
TEST(BootstrapMedian, ReachesToTheEndsOfFewValues) {
  const Interval interval = bootstrap_median(std::vector{1.0, 2.0, 3.0}, 3);
  EXPECT_DOUBLE_EQ(interval.median, 2);
  EXPECT_DOUBLE_EQ(interval.low, 1);
  EXPECT_DOUBLE_EQ(interval.high, 3);
}

TEST(BootstrapMedian, ReachesAsFarUpAsDown) {
  std::vector<double> values;
  for (int i = 1; i <= 15; ++i) values.push_back(i);
  const Interval interval = bootstrap_median(values, 3);
  EXPECT_DOUBLE_EQ(interval.median, 8);
  EXPECT_NEAR(interval.median - interval.low, interval.high - interval.median, 1);
}

// Fifteen rounds from a skewed distribution of known median, many times over.
TEST(BootstrapMedian, HoldsTheTrueMedianAsOftenAsItSays) {
  std::mt19937_64 random(7);
  std::lognormal_distribution<double> times(0, 0.3);  // median 1
  int held = 0;
  constexpr int kRepetitions = 400;
  for (int i = 0; i < kRepetitions; ++i) {
    std::vector<double> values(15);
    for (double& value : values) value = times(random);
    const Interval interval = bootstrap_median(values, static_cast<uint64_t>(i), 1000);
    EXPECT_LE(interval.low, interval.median);
    EXPECT_LE(interval.median, interval.high);
    held += interval.low <= 1 && 1 <= interval.high ? 1 : 0;
  }
  EXPECT_GE(held, kRepetitions * 90 / 100);
  EXPECT_LE(held, kRepetitions * 99 / 100);
}

TEST(BootstrapMedian, ReadsASingleOutlierAsNoise) {
  std::vector<double> values(15, 1.0);
  values[4] = 100;
  const Interval interval = bootstrap_median(values, 1);
  EXPECT_DOUBLE_EQ(interval.median, 1);
  EXPECT_DOUBLE_EQ(interval.high, 1);
}

}  // namespace
}  // namespace dlbridge::bars
