// SPDX-License-Identifier: Apache-2.0
#include "contest.h"

#include <algorithm>
#include <numeric>

namespace dlbridge::bars {

std::vector<Series> interleave(const std::vector<Contender>& contenders, Turns turns,
                               std::mt19937_64& random) {
  std::vector<Series> out;
  for (const Contender& contender : contenders) {
    out.push_back({contender.name, {}});
    out.back().seconds.reserve(static_cast<size_t>(turns.rounds));
  }
  std::vector<size_t> order(contenders.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (int round = -turns.warm_ups; round < turns.rounds; ++round) {
    std::shuffle(order.begin(), order.end(), random);
    for (const size_t i : order) {
      const double seconds = contenders[i].run();
      if (round >= 0) out[i].seconds.push_back(seconds);
    }
  }
  return out;
}

}  // namespace dlbridge::bars
