// What is made of measured times: medians, percentiles, and ratios with a bootstrap interval.
//
// Pure, owns nothing. Thread: any.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace dlbridge::bars {

/// The value below which `share` of the values lie (0.5: the median; 0.99), interpolated linearly
/// between neighbours. Throws std::invalid_argument where there are no values, or a share outside
/// [0, 1].
double quantile(std::span<const double> values, double share);
inline double median(std::span<const double> values) { return quantile(values, 0.5); }

/// A median and the interval that holds the true one in 95 of 100 repetitions.
struct Interval {
  double median = 0;
  double low = 0;
  double high = 0;
};

/// Bootstrap: the median of `values`, and the 2.5 and 97.5 percentiles of the medians of as many
/// values drawn from them with replacement. The same seed gives the same interval. Throws
/// std::invalid_argument where there are no values.
Interval bootstrap_median(std::span<const double> values, uint64_t seed, int resamples = 10'000);

/// numerators[i] / denominators[i]: of times that were measured in one round each. Throws
/// std::invalid_argument where their counts differ or a denominator is not positive.
std::vector<double> ratios(std::span<const double> numerators,
                           std::span<const double> denominators);

}  // namespace dlbridge::bars
