// SPDX-License-Identifier: Apache-2.0
// Contest: several ways to the same result, timed in turns, so that what changes on the machine
// meanwhile (clocks, neighbours, temperature) changes for all of them.
//
// Thread: one.
#pragma once

#include <chrono>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace dlbridge::bars {

/// One way. `run` does it once and returns the seconds of what counts: what it prepares and checks
/// before and after is not among them. It throws where the result is wrong.
struct Contender {
  std::string name;
  std::function<double()> run;
};

/// The seconds of one contender, one entry a round.
struct Series {
  std::string name;
  std::vector<double> seconds;
};

struct Turns {
  int warm_ups = 3;  ///< rounds whose times are dropped
  int rounds = 15;
};

/// Every contender once a round, in an order that `random` chooses anew for each.
std::vector<Series> interleave(const std::vector<Contender>& contenders, Turns turns,
                               std::mt19937_64& random);

/// Seconds since it was made.
class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

/// The seconds of one call.
template <typename Body>
double timed(Body&& body) {
  const Stopwatch watch;
  body();
  return watch.seconds();
}

}  // namespace dlbridge::bars
