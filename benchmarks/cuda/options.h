// SPDX-License-Identifier: Apache-2.0
// Options: the command line of the programs that measure.
#pragma once

#include <cstdint>
#include <string>

namespace dlbridge::bars {

struct Options {
  std::string only;      ///< --only: a regular expression; empty: all cases
  uint64_t seed = 1;     ///< --seed: of the order of turns and of the resampling
  int rounds = 15;       ///< --rounds: 15 or more
  int samples = 20'000;  ///< --samples of latencies: 5000 or more
  double seconds = 1e9;  ///< --seconds: no case begins after them
  int device = 0;        ///< --device
  bool list = false;     ///< --list: names the cases and their bars, and ends
};

/// Throws std::invalid_argument that says what was found and what is expected.
Options parse_options(int argc, const char* const* argv);

}  // namespace dlbridge::bars
