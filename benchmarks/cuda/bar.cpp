#include "bar.h"

#include <utility>

namespace dlbridge::bars {

Verdict judge(const Bar& bar, const Interval& value) {
  if (!bar.target) return Verdict::no_bar;
  const bool right =
      bar.sense == Sense::at_least ? value.low >= *bar.target : value.high <= *bar.target;
  return right ? Verdict::passed : Verdict::failed;
}

Outcome outcome_of(const Bar& bar, std::vector<double> values, std::vector<Series> series,
                   uint64_t seed) {
  Outcome outcome;
  outcome.bar = bar;
  outcome.value = bootstrap_median(values, seed);
  outcome.verdict = judge(bar, outcome.value);
  outcome.values = std::move(values);
  outcome.series = std::move(series);
  return outcome;
}

Outcome skipped(const Bar& bar, std::string why) {
  Outcome outcome;
  outcome.bar = bar;
  outcome.note = std::move(why);
  return outcome;
}

Outcome broken(const Bar& bar, std::string why) {
  Outcome outcome = skipped(bar, std::move(why));
  outcome.verdict = Verdict::broken;
  return outcome;
}

const char* name(Verdict verdict) {
  switch (verdict) {
    case Verdict::passed:
      return "passed";
    case Verdict::failed:
      return "FAILED";
    case Verdict::no_bar:
      return "no bar";
    case Verdict::broken:
      return "BROKEN";
    case Verdict::skipped:
      break;
  }
  return "skipped";
}

}  // namespace dlbridge::bars
