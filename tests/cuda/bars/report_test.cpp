// SPDX-License-Identifier: Apache-2.0
// The lines that bars.py reads.
#include "report.h"

#include <gtest/gtest.h>

#include <limits>

namespace dlbridge::bars {
namespace {

const Bar kBar{"d2h, 64 MiB", "raw / ours", Sense::at_least, 0.97, {}};
const std::string kHead =
    R"({"name": "d2h, 64 MiB", "figure": "raw / ours", "unit": "x", "sense": "at least", )"
    R"("target": 0.97, "goal": null, "note": )";

TEST(ReportLine, HoldsBothSeries) {
  EXPECT_EQ(line_of(kBar, "speed", {"ours", {0.5, 0.25}}, {"raw", {1}}, "two threads"),
            kHead +
                R"("two threads", "ratio": "speed", "series": )"
                R"([{"name": "ours", "seconds": [0.5, 0.25]}, {"name": "raw", "seconds": [1]}]})");
}

TEST(ReportLine, HoldsValues) {
  EXPECT_EQ(line_of(kBar, {0.98, std::numeric_limits<double>::infinity()}, ""),
            kHead + R"("", "values": [0.98, null]})");
}

TEST(ReportLine, HoldsVerdict) {
  EXPECT_EQ(not_measured(kBar, "BROKEN", "wrong content"),
            kHead + R"("wrong content", "verdict": "BROKEN"})");
}

TEST(ReportLine, EscapesText) {
  EXPECT_EQ(line_of({{"a \"name\"", "back\\slash\nline"}, {"b", ""}}),
            R"({"facts": {"a \"name\"": "back\\slash\u000aline", "b": ""}})");
}

}  // namespace
}  // namespace dlbridge::bars
