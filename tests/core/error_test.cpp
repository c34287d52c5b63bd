// SPDX-License-Identifier: Apache-2.0
// Error, the names of the codes, and ReasonSet: one word of codes with a fixed precedence.
#include "dlbridge/error.h"

#include <gtest/gtest.h>

#include <string_view>
#include <type_traits>

namespace dlbridge {
namespace {

struct Named {
  ErrorCode code;
  std::string_view name;
};

constexpr Named kReasons[] = {
#define DLBRIDGE_REASON(code, ...) {ErrorCode::code, #code},
#include "dlbridge/detail/reasons.def"
};
constexpr Named kOthers[] = {
#define DLBRIDGE_OTHER(code, ...) {ErrorCode::code, #code},
#include "dlbridge/detail/reasons.def"
};

TEST(ErrorCode, NamesAreTheSpellings) {
  for (const Named& row : kReasons) EXPECT_EQ(name(row.code), row.name);
  for (const Named& row : kOthers) EXPECT_EQ(name(row.code), row.name);
  EXPECT_EQ(name(static_cast<ErrorCode>(255)), "unknown");
  EXPECT_EQ(name(ErrorCode::reason_count_), "unknown");
}

TEST(ErrorCode, OnlyReasonsFitIntoASet) {
  for (const Named& row : kReasons) EXPECT_LT(row.code, ErrorCode::reason_count_);
  for (const Named& row : kOthers) EXPECT_GT(row.code, ErrorCode::last_reason_);
}

TEST(ReasonSet, HoldsEachCodeAlone) {
  EXPECT_TRUE(ReasonSet().empty());
  for (const Named& row : kReasons) {
    const ReasonSet set(row.code);
    EXPECT_FALSE(set.empty());
    EXPECT_EQ(set.first(), row.code);
    for (const Named& other : kReasons) {
      EXPECT_EQ(set.has(other.code), other.code == row.code);
      EXPECT_FALSE(ReasonSet().has(other.code));
    }
  }
}

TEST(ReasonSet, FirstHasTheHighestPrecedence) {
  ReasonSet set;
  set.add(ErrorCode::read_only);
  set.add(ErrorCode::negative_stride);
  set.add(ErrorCode::masked_array);
  set.add(ErrorCode::misaligned);
  EXPECT_EQ(set.first(), ErrorCode::masked_array);
  EXPECT_EQ(set.without(ErrorCode::masked_array).first(), ErrorCode::negative_stride);
}

TEST(ReasonSet, SetAlgebra) {
  const ReasonSet both = ReasonSet(ErrorCode::overlap) | ErrorCode::misaligned;
  EXPECT_TRUE(both.has(ErrorCode::overlap));
  EXPECT_TRUE(both.has(ErrorCode::misaligned));
  EXPECT_EQ(both & ErrorCode::overlap, ReasonSet(ErrorCode::overlap));
  EXPECT_EQ(both.without(both), ReasonSet());
  EXPECT_EQ(both.without(ErrorCode::read_only), both);
}

TEST(Error, CarriesCodeFieldAndText) {
  const Error error(ErrorCode::overlap, "strides", "strides overlap: pass copy=None");
  EXPECT_EQ(error.code(), ErrorCode::overlap);
  EXPECT_EQ(error.field(), "strides");
  EXPECT_STREQ(error.what(), "strides overlap: pass copy=None");
}

TEST(Error, IsAValue) {
  const Error original(ErrorCode::read_only, "flags", "text");
  Error copy(ErrorCode::overlap, "", "");
  copy = original;
  EXPECT_EQ(copy.code(), ErrorCode::read_only);
  EXPECT_EQ(copy.field(), "flags");
  EXPECT_STREQ(copy.what(), "text");
}

TEST(Error, IsAStdException) {
  static_assert(std::is_base_of_v<std::exception, Error>);
  try {
    throw Error(ErrorCode::null_data, "data", "data is null");
  } catch (const std::exception& caught) {
    EXPECT_STREQ(caught.what(), "data is null");
  }
}

}  // namespace
}  // namespace dlbridge
