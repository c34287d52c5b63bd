// When a bar is passed.
#include "bar.h"

#include <gtest/gtest.h>

namespace dlbridge::bars {
namespace {

const Bar kAtLeast{"speed", "raw / ours", Sense::at_least, 0.97, {}};
const Bar kAtMost{"cost", "ours / raw", Sense::at_most, 1.05, {}};

TEST(Judge, WantsTheWholeIntervalOnTheRightSide) {
  EXPECT_EQ(judge(kAtLeast, {0.99, 0.97, 1.0}), Verdict::passed);
  EXPECT_EQ(judge(kAtLeast, {0.99, 0.969, 1.0}), Verdict::failed);
  EXPECT_EQ(judge(kAtMost, {1.0, 0.9, 1.05}), Verdict::passed);
  EXPECT_EQ(judge(kAtMost, {1.0, 0.9, 1.051}), Verdict::failed);
}

TEST(Judge, SaysWhereNothingIsPromised) {
  EXPECT_EQ(judge({"shown", "", Sense::at_least, {}, {}}, {0.1, 0.1, 0.1}), Verdict::no_bar);
}

TEST(OutcomeOf, FailsWhereOnlyTheMedianIsGood) {
  std::vector<double> values(15, 0.99);
  for (size_t i = 0; i < 6; ++i) values[i] = 0.80;
  const Outcome outcome = outcome_of(kAtLeast, values, {}, 1);
  EXPECT_DOUBLE_EQ(outcome.value.median, 0.99);
  EXPECT_EQ(outcome.verdict, Verdict::failed);
  EXPECT_TRUE(outcome.measured());
}

TEST(OutcomeOf, KeepsWhatItWasMadeOf) {
  const Outcome outcome = outcome_of(kAtMost, {1.0, 1.0}, {{"ours", {2.0, 4.0}}}, 1);
  EXPECT_EQ(outcome.verdict, Verdict::passed);
  EXPECT_EQ(outcome.values, (std::vector{1.0, 1.0}));
  ASSERT_EQ(outcome.series.size(), 1u);
  EXPECT_EQ(outcome.series[0].seconds, (std::vector{2.0, 4.0}));
}

TEST(Outcome, SaysWhyItWasNotMeasured) {
  EXPECT_EQ(skipped(kAtMost, "no room").verdict, Verdict::skipped);
  EXPECT_EQ(broken(kAtMost, "wrong content").verdict, Verdict::broken);
  EXPECT_EQ(broken(kAtMost, "wrong content").note, "wrong content");
  EXPECT_FALSE(skipped(kAtMost, "").measured());
  EXPECT_FALSE(broken(kAtMost, "").measured());
}

}  // namespace
}  // namespace dlbridge::bars
