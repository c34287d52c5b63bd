// Bar: one promise about speed, and Outcome: what was measured of it.
//
// A bar is passed where the whole 95 % interval of the measured figure is on its right side, so a
// figure that is good on average but not surely so does not pass. Values. Thread: any.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "contest.h"
#include "statistics.h"

namespace dlbridge::bars {

/// Which side of the target is the right one.
enum class Sense { at_least, at_most };

struct Bar {
  std::string name;    ///< "d2h pooled, 64 MiB, freed": unique
  std::string figure;  ///< what is judged: "time of cudaMemcpyAsync / ours"
  Sense sense;
  std::optional<double> target;  ///< none: the figure is shown, nothing is promised
  std::optional<double> goal;    ///< what is aimed at beyond the target
  std::string unit = "x";
};

enum class Verdict {
  passed,
  failed,
  no_bar,
  skipped,  ///< not measured, for a reason that is no mistake
  broken,   ///< a call failed or a result was wrong
};

struct Outcome {
  Bar bar;
  Verdict verdict = Verdict::skipped;
  Interval value;              ///< of the figure; not of what was not measured
  std::vector<double> values;  ///< the figure of every round
  std::vector<Series> series;  ///< the times that it was made of
  std::string note;            ///< why it was not measured, or what else was found

  bool measured() const noexcept {
    return verdict != Verdict::skipped && verdict != Verdict::broken;
  }
};

/// What the interval says about the bar.
Verdict judge(const Bar& bar, const Interval& value);

/// Judges the figures of all rounds.
Outcome outcome_of(const Bar& bar, std::vector<double> values, std::vector<Series> series,
                   uint64_t seed);

/// Ones that were not measured, and why.
Outcome skipped(const Bar& bar, std::string why);
Outcome broken(const Bar& bar, std::string why);

const char* name(Verdict verdict);

}  // namespace dlbridge::bars
