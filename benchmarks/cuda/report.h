// SPDX-License-Identifier: Apache-2.0
// Report: what was measured, a line of JSON on standard output for each bar. bars.py reads and
// judges the lines.
//
// Thread: one.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "bar.h"
#include "contest.h"

namespace dlbridge::bars {

/// What holds for all bars of a run: {"seed", "7"}.
using Facts = std::vector<std::pair<std::string, std::string>>;

std::string line_of(const Facts& facts);
/// How often ours fits into the baseline's time, round by round ("speed"), or what ours costs
/// beside it, from medians of many samples ("cost").
std::string line_of(const Bar& bar, const char* ratio, const Series& ours, const Series& baseline,
                    const std::string& note);
/// A figure of its own, one value a round.
std::string line_of(const Bar& bar, const std::vector<double>& values, const std::string& note);
/// Not measured: "skipped" for a reason that is no mistake; "BROKEN" where a call failed or a
/// result was wrong.
std::string not_measured(const Bar& bar, const char* verdict, const std::string& why);

class Report {
 public:
  explicit Report(const Facts& facts) { print(line_of(facts)); }

  void add(const std::string& line) {
    print(line);
    ++bars_;
  }
  /// How many bars were added.
  size_t bars() const noexcept { return bars_; }

 private:
  static void print(const std::string& line);

  size_t bars_ = 0;
};

}  // namespace dlbridge::bars
