#include "statistics.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>

namespace dlbridge::bars {
namespace {

double sorted_quantile(std::span<const double> sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double part = place - std::floor(place);
  return sorted[below] + part * (sorted[above] - sorted[below]);
}

}  // namespace

double quantile(std::span<const double> values, double share) {
  if (values.empty()) throw std::invalid_argument("no values: there is no quantile of nothing");
  if (!(share >= 0 && share <= 1)) throw std::invalid_argument("a share lies between 0 and 1");
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  return sorted_quantile(sorted, share);
}

Interval bootstrap_median(std::span<const double> values, uint64_t seed, int resamples) {
  Interval interval;
  interval.median = median(values);
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<size_t> pick(0, values.size() - 1);
  std::vector<double> medians(static_cast<size_t>(resamples));
  std::vector<double> drawn(values.size());
  for (double& one : medians) {
    for (double& value : drawn) value = values[pick(random)];
    std::sort(drawn.begin(), drawn.end());
    one = sorted_quantile(drawn, 0.5);
  }
  std::sort(medians.begin(), medians.end());
  interval.low = sorted_quantile(medians, 0.025);
  interval.high = sorted_quantile(medians, 0.975);
  return interval;
}

std::vector<double> ratios(std::span<const double> numerators,
                           std::span<const double> denominators) {
  if (numerators.size() != denominators.size())
    throw std::invalid_argument("ratios are of values that were measured in pairs");
  std::vector<double> out;
  out.reserve(numerators.size());
  for (size_t i = 0; i < numerators.size(); ++i) {
    if (!(denominators[i] > 0)) throw std::invalid_argument("a time is not positive");
    out.push_back(numerators[i] / denominators[i]);
  }
  return out;
}

}  // namespace dlbridge::bars
