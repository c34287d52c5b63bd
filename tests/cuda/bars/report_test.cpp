// What is written of a run.
#include "report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <limits>
#include <sstream>

namespace dlbridge::bars {
namespace {

using testing::HasSubstr;

const Bar kBar{"d2h, 64 MiB", "raw / ours", Sense::at_least, 0.97, 0.99};

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

class ReportFile : public testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove(path_); }
  const std::filesystem::path path_ = std::filesystem::temp_directory_path() /
                                      ("dlbridge-report-" + std::to_string(getpid()) + ".json");
};

TEST_F(ReportFile, IsWholeAfterEveryBar) {
  Report report(path_, {{"seed", "7"}});
  EXPECT_EQ(text_of(path_), "{\n  \"seed\": \"7\",\n  \"bars\": [\n  ]\n}\n");
  report.add(outcome_of(kBar, {1.0, 1.0}, {{"ours", {0.5, 0.25}}}, 1));
  EXPECT_EQ(text_of(path_), report.json());
  EXPECT_THAT(text_of(path_), HasSubstr("\"verdict\": \"passed\""));
  report.add(skipped(kBar, "the time was up"));
  EXPECT_EQ(text_of(path_), report.json());
  EXPECT_THAT(text_of(path_), HasSubstr("\"note\": \"the time was up\"}"));
  EXPECT_FALSE(std::filesystem::exists(path_.string() + ".partial"));
}

TEST(Report, RefusesAFileThatCannotBeWritten) {
  EXPECT_THROW(Report("/nowhere/report.json", {}), std::runtime_error);
}

TEST(Report, WritesFiguresAndTimes) {
  Report report("", {});
  report.add(outcome_of(kBar, {0.98, 0.98}, {{"ours", {0.5, 0.25}}}, 1));
  const std::string json = report.json();
  EXPECT_THAT(json, HasSubstr("\"target\": 0.97, \"goal\": 0.99"));
  EXPECT_THAT(json, HasSubstr("\"value\": 0.98, \"low\": 0.98, \"high\": 0.98"));
  EXPECT_THAT(json, HasSubstr("\"values\": [0.98, 0.98]"));
  EXPECT_THAT(json, HasSubstr("\"count\": 2, \"p50\": 0.375, \"p99\": 0.4975, "
                              "\"seconds\": [0.5, 0.25]"));
}

TEST(Report, WritesPercentilesOfManySamplesAlone) {
  Report report("", {});
  report.add(outcome_of(kBar, {1.0}, {{"ours", std::vector<double>(5000, 2e-6)}}, 1));
  EXPECT_THAT(report.json(), HasSubstr("\"count\": 5000, \"p50\": 2e-06, \"p99\": 2e-06}"));
}

TEST(Report, EscapesTextsAndKnowsNoInfinity) {
  Report report("", {{"a \"name\"", "back\\slash\nline"}});
  EXPECT_THAT(report.json(), HasSubstr(R"("a \"name\"": "back\\slash\u000aline")"));
  Outcome outcome = outcome_of(kBar, {1.0}, {}, 1);
  outcome.value.high = std::numeric_limits<double>::infinity();
  report.add(outcome);
  EXPECT_THAT(report.json(), HasSubstr("\"high\": null"));
}

TEST(Report, RemembersWhetherAnythingFailed) {
  Report report("", {});
  report.add(outcome_of(kBar, {1.0}, {}, 1));
  report.add(skipped(kBar, "no room"));
  EXPECT_FALSE(report.any_failed());
  report.add(broken(kBar, "wrong content"));
  EXPECT_TRUE(report.any_failed());
  Report other("", {});
  other.add(outcome_of(kBar, {0.5}, {}, 1));
  EXPECT_TRUE(other.any_failed());
}

TEST(LineOf, SaysFigureBarAndVerdict) {
  EXPECT_EQ(line_of(outcome_of(kBar, {0.98}, {}, 1)),
            "d2h, 64 MiB: 0.98 x [0.98, 0.98], at least 0.97 (goal 0.99): passed");
  EXPECT_EQ(line_of(outcome_of({"cost", "", Sense::at_most, 80, {}, "ns"}, {81}, {}, 1)),
            "cost: 81 ns [81, 81], at most 80: FAILED");
  EXPECT_EQ(line_of(broken(kBar, "wrong content")), "d2h, 64 MiB: BROKEN: wrong content");
}

}  // namespace
}  // namespace dlbridge::bars
