// Error, the names of the codes, and ReasonSet: one word of codes with a fixed precedence.
#include "dlbridge/error.h"

#include <gtest/gtest.h>

#include <set>
#include <type_traits>
#include <vector>

namespace dlbridge {
namespace {

const std::vector<ErrorCode>& reason_codes() {
  static const std::vector<ErrorCode> codes = {
#define DLBRIDGE_X(code, ...) ErrorCode::code,
      DLBRIDGE_REASON_CODES(DLBRIDGE_X)
#undef DLBRIDGE_X
  };
  return codes;
}

TEST(ErrorCode, NamesAreTheSpellingsAndDistinct) {
  std::set<std::string_view> seen;
#define DLBRIDGE_X(code, ...)              \
  EXPECT_EQ(name(ErrorCode::code), #code); \
  EXPECT_TRUE(seen.insert(name(ErrorCode::code)).second);
  DLBRIDGE_REASON_CODES(DLBRIDGE_X)
  DLBRIDGE_OTHER_CODES(DLBRIDGE_X)
#undef DLBRIDGE_X
}

TEST(ErrorCode, ValueOutsideTheEnumHasAName) {
  EXPECT_EQ(name(static_cast<ErrorCode>(255)), "unknown");
  EXPECT_EQ(name(ErrorCode::reason_count_), "unknown");
}

TEST(ErrorCode, OtherCodesDoNotReachIntoTheSet) {
#define DLBRIDGE_X(code) EXPECT_GE(static_cast<int>(ErrorCode::code), 64);
  DLBRIDGE_OTHER_CODES(DLBRIDGE_X)
#undef DLBRIDGE_X
}

TEST(ReasonSet, StartsEmpty) {
  EXPECT_TRUE(ReasonSet().empty());
  for (ErrorCode code : reason_codes()) EXPECT_FALSE(ReasonSet().has(code));
}

TEST(ReasonSet, HoldsEachCodeAlone) {
  for (ErrorCode code : reason_codes()) {
    const ReasonSet set(code);
    EXPECT_FALSE(set.empty());
    EXPECT_EQ(set.first(), code);
    for (ErrorCode other : reason_codes()) EXPECT_EQ(set.has(other), other == code);
  }
}

TEST(ReasonSet, FirstIsTheOneOfHighestPrecedenceWhateverTheOrderOfAdding) {
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

TEST(Error, ThrownInTheLibraryIsCaughtAsStdException) {
  static_assert(std::is_base_of_v<std::exception, Error>);
  try {
    throw Error(ErrorCode::null_data, "data", "data is null");
  } catch (const std::exception& caught) {
    EXPECT_STREQ(caught.what(), "data is null");
  }
}

}  // namespace
}  // namespace dlbridge
