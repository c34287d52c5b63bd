// SPDX-License-Identifier: Apache-2.0
// The command line.
#include "options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

namespace dlbridge::bars {
namespace {

Options parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "program");
  return parse_options(static_cast<int>(arguments.size()), arguments.data());
}

std::string refusal_of(std::vector<const char*> arguments) {
  try {
    static_cast<void>(parse(std::move(arguments)));
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

TEST(ParseOptions, ReadsAll) {
  const Options options = parse({"--only", "d2h", "--seed", "9", "--rounds", "31", "--samples",
                                 "6000", "--seconds", "12.5", "--device", "1", "--list"});
  EXPECT_EQ(options.only, "d2h");
  EXPECT_EQ(options.seed, 9u);
  EXPECT_EQ(options.rounds, 31);
  EXPECT_EQ(options.samples, 6000);
  EXPECT_DOUBLE_EQ(options.seconds, 12.5);
  EXPECT_EQ(options.device, 1);
  EXPECT_TRUE(options.list);
}

TEST(ParseOptions, DefaultsToWhatBarsNeed) {
  EXPECT_EQ(parse({}).rounds, 15);
  EXPECT_EQ(parse({}).samples, 20'000);
}

TEST(ParseOptions, RefusesFewRoundsAndWhatItDoesNotKnow) {
  EXPECT_THAT(refusal_of({"--rounds", "14"}), testing::HasSubstr("15 or more"));
  EXPECT_THAT(refusal_of({"--samples", "100"}), testing::HasSubstr("5000 or more"));
  EXPECT_THAT(refusal_of({"--rounds", "20x"}), testing::HasSubstr("'20x'"));
  EXPECT_THAT(refusal_of({"--seconds", "nan"}), testing::HasSubstr("expected a number"));
  EXPECT_THAT(refusal_of({"--seed"}), testing::HasSubstr("--seed lacks its value"));
  EXPECT_THAT(refusal_of({"--simulated"}), testing::HasSubstr("unknown argument '--simulated'"));
}

}  // namespace
}  // namespace dlbridge::bars
