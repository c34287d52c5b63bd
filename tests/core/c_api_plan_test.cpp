// SPDX-License-Identifier: Apache-2.0
// dlb_plan: traits and requests given as C structs reach the decision, and its answer comes back in
// the caller's arrays.
#include "dlbridge/c_api.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <string>

#include "c_calls.h"
#include "dlbridge/dlpack.h"
#include "producer.h"

namespace dlbridge {
namespace {

using test::expect_failure;
using test::expect_invalid;
using test::sized;
using test::VersionedProducer;

const DLDataType kTypes[] = {{2, 32, 1}, {2, 64, 1}, {0, 64, 1}};

// A CPU engine: no negative strides, nothing read-only.
dlb_traits engine() {
  auto traits = sized<dlb_traits>();
  traits.name = "engine";
  traits.dtypes = kTypes;
  traits.dtype_count = 3;
  traits.max_ndim = 4;
  traits.accepts = DLBRIDGE_ACCEPTS_ZERO_STRIDES;
  traits.devices = 1u << kDLCPU;
  return traits;
}

struct Answer {
  dlb_plan_result result = sized<dlb_plan_result>();
  const char* reasons[8] = {};
  char message[256] = "untouched";

  Answer() {
    result.reasons = reasons;
    result.reasons_capacity = 8;
    result.message = message;
    result.message_capacity = sizeof message;
  }
};

class CApiPlan : public testing::Test {
 protected:
  void plan(const dlb_request* request = nullptr) {
    ASSERT_OK(dlb_plan(producer_.get(), &traits_, request, &answer_.result));
  }
  // Read-only, and backwards.
  void make_awkward() {
    producer_.get()->flags = kReadOnly;
    producer_.set_layout({3}, {-1});
    producer_.tensor().data = producer_.values() + 2;
  }

  VersionedProducer producer_;
  dlb_traits traits_ = engine();
  Answer answer_;
};

TEST_F(CApiPlan, Shares) {
  plan();
  EXPECT_EQ(answer_.result.verdict, DLBRIDGE_SHARE);
  EXPECT_EQ(answer_.result.reasons_count, 0);
  EXPECT_EQ(answer_.result.bytes, 0);
  EXPECT_EQ(std::string(answer_.message).substr(0, 15), "shares 24 bytes");
  EXPECT_EQ(answer_.result.message_length, std::strlen(answer_.message));
}

TEST_F(CApiPlan, OrdersReasons) {
  make_awkward();
  plan();
  EXPECT_EQ(answer_.result.verdict, DLBRIDGE_REFUSE);
  ASSERT_EQ(answer_.result.reasons_count, 2);
  EXPECT_STREQ(answer_.reasons[0], "negative_stride");
  EXPECT_STREQ(answer_.reasons[1], "read_only");
  EXPECT_EQ(answer_.reasons[2], nullptr);
  EXPECT_EQ(answer_.result.bytes, 12);
  EXPECT_STREQ(answer_.message,
               "stride in dimension 0 is -1 elements; engine has no negative strides: "
               "pass copy=None to copy 12 bytes");
}

TEST_F(CApiPlan, ObeysTheRequest) {
  struct Row {
    const char* what;
    int32_t copy;
    uint32_t named;
    dlb_verdict verdict;
    int64_t bytes;
    const char* reason;
  };
  const Row rows[] = {
      {"unset", DLBRIDGE_COPY_UNSET, 0, DLBRIDGE_SHARE, 0, nullptr},
      {"never", DLBRIDGE_COPY_NEVER, 0, DLBRIDGE_SHARE, 0, nullptr},
      {"if needed", DLBRIDGE_COPY_IF_NEEDED, 0, DLBRIDGE_SHARE, 0, nullptr},
      {"always", DLBRIDGE_COPY_ALWAYS, 0, DLBRIDGE_COPY, 24, nullptr},
      {"destination", DLBRIDGE_COPY_UNSET, DLBRIDGE_NAMED_DESTINATION, DLBRIDGE_COPY, 24, nullptr},
      {"dtype", DLBRIDGE_COPY_UNSET, DLBRIDGE_NAMED_DTYPE, DLBRIDGE_CAST, 48, nullptr},
      {"dtype, never", DLBRIDGE_COPY_NEVER, DLBRIDGE_NAMED_DTYPE, DLBRIDGE_REFUSE, 48,
       "copy_forbidden"},
      {"device", DLBRIDGE_COPY_UNSET, DLBRIDGE_NAMED_DEVICE, DLBRIDGE_REFUSE, 0,
       "unsupported_device"},
  };
  VersionedProducer producer;
  const dlb_traits traits = engine();
  for (const Row& row : rows) {
    auto request = sized<dlb_request>();
    request.copy = row.copy;
    request.named = row.named;
    request.device = {kDLCUDA, 0};
    request.dtype = {2, 64, 1};
    Answer answer;
    ASSERT_EQ(dlb_plan(producer.get(), &traits, &request, &answer.result), DLBRIDGE_OK) << row.what;
    EXPECT_EQ(answer.result.verdict, row.verdict) << row.what << ": " << answer.message;
    EXPECT_EQ(answer.result.bytes, row.bytes) << row.what;
    EXPECT_EQ(answer.result.casts, (row.named & DLBRIDGE_NAMED_DTYPE) != 0) << row.what;
    EXPECT_EQ(answer.result.stages, (row.named & DLBRIDGE_NAMED_DEVICE) != 0) << row.what;
    if (row.reason) {
      EXPECT_STREQ(answer.reasons[0], row.reason) << row.what;
    }
  }
}

TEST_F(CApiPlan, SourceMayCast) {
  producer_.tensor().dtype = {0, 32, 1};
  auto request = sized<dlb_request>();
  request.named = DLBRIDGE_NAMED_DTYPE;
  request.dtype = {2, 32, 1};
  plan(&request);
  EXPECT_EQ(answer_.result.verdict, DLBRIDGE_REFUSE);
  request.named |= DLBRIDGE_NAMED_SOURCE_CASTS;
  plan(&request);
  EXPECT_EQ(answer_.result.verdict, DLBRIDGE_CAST);
}

TEST_F(CApiPlan, ReadsEachAcceptsBit) {
  struct Row {
    uint32_t bit;
    const char* reason;
    std::function<void(VersionedProducer&)> awkward;
  };
  const Row rows[] = {
      {DLBRIDGE_ACCEPTS_NEGATIVE_STRIDES, "negative_stride",
       [](auto& p) {
         p.set_layout({3}, {-1});
         p.tensor().data = p.values() + 2;
       }},
      {DLBRIDGE_ACCEPTS_ZERO_STRIDES, "overlap", [](auto& p) { p.set_layout({3}, {0}); }},
      {DLBRIDGE_ACCEPTS_PARTIAL_OVERLAP, "overlap", [](auto& p) { p.set_layout({2, 2}, {1, 1}); }},
      {DLBRIDGE_ACCEPTS_READ_ONLY, "read_only", [](auto& p) { p.get()->flags = kReadOnly; }},
      {DLBRIDGE_ACCEPTS_MISALIGNED, "misaligned",
       [](auto& p) {
         p.set_layout({2}, {1});
         p.tensor().byte_offset = 1;
       }},
      {DLBRIDGE_ACCEPTS_EVERY_DTYPE, "unsupported_dtype",
       [](auto& p) { p.tensor().dtype = {4, 16, 1}; }},
  };
  for (const Row& row : rows) {
    VersionedProducer producer;
    row.awkward(producer);
    dlb_traits traits = engine();
    traits.accepts = 0xFF & ~row.bit & ~unsigned{DLBRIDGE_ACCEPTS_HOST_ONLY};
    Answer answer;
    ASSERT_OK(dlb_plan(producer.get(), &traits, nullptr, &answer.result));
    EXPECT_EQ(answer.result.verdict, DLBRIDGE_REFUSE) << row.reason;
    EXPECT_STREQ(answer.reasons[0], row.reason);
    traits.accepts = row.bit;
    ASSERT_OK(dlb_plan(producer.get(), &traits, nullptr, &answer.result));
    EXPECT_EQ(answer.result.verdict, DLBRIDGE_SHARE) << answer.message;
  }
}

TEST_F(CApiPlan, ReadsOtherTraits) {
  const DLDataType int4{0, 4, 1};
  traits_.dtypes = &int4;
  traits_.dtype_count = 1;
  producer_.tensor().dtype = int4;
  plan();
  EXPECT_STREQ(answer_.reasons[0], "packed_subbyte");
  traits_.accepts |= DLBRIDGE_ACCEPTS_PACKED_SUBBYTE;
  plan();
  EXPECT_EQ(answer_.result.verdict, DLBRIDGE_SHARE);

  producer_.tensor().dtype = {17, 4, 2};
  traits_.float4 = DLBRIDGE_FLOAT4_PADDED;
  plan();
  EXPECT_STREQ(answer_.reasons[0], "float4_packing");
  traits_.float4 = DLBRIDGE_FLOAT4_PAIRS;
  plan();
  EXPECT_EQ(answer_.result.verdict, DLBRIDGE_SHARE);

  producer_.tensor().dtype = int4;
  producer_.tensor().device.device_type = kDLCUDA;
  plan();
  EXPECT_STREQ(answer_.reasons[0], "unsupported_device");
  traits_.accepts |= DLBRIDGE_ACCEPTS_HOST_ONLY;
  plan();
  EXPECT_STREQ(answer_.reasons[0], "device_not_named");
}

TEST_F(CApiPlan, NullTraitsHoldAll) {
  VersionedProducer producer;
  producer.get()->flags = kReadOnly;
  producer.tensor().device = {kDLVulkan, 0};
  auto result = sized<dlb_plan_result>();
  ASSERT_OK(dlb_plan(producer.get(), nullptr, nullptr, &result));
  EXPECT_EQ(result.verdict, DLBRIDGE_SHARE);
}

TEST_F(CApiPlan, CutsTextsAndReasons) {
  make_awkward();
  std::memset(answer_.message, '#', sizeof answer_.message);
  answer_.result.message_capacity = 7;
  answer_.result.reasons_capacity = 1;
  plan();
  EXPECT_EQ(std::string(answer_.message, 8), std::string("stride\0#", 8));
  EXPECT_GT(answer_.result.message_length, 80u);
  EXPECT_EQ(answer_.result.reasons_count, 2);
  EXPECT_EQ(answer_.reasons[1], nullptr);
  answer_.result.message = nullptr;
  answer_.result.reasons = nullptr;
  plan();
  EXPECT_EQ(answer_.result.message_length, 0u);
  EXPECT_EQ(answer_.result.reasons_count, 2);
}

TEST_F(CApiPlan, RefusesValuesOutOfRange) {
  struct Row {
    const char* code;
    const char* field;
    std::function<void(dlb_traits&, dlb_request&)> spoil;
  };
  static const DLDataType pair{17, 4, 2};
  const Row rows[] = {
      {"invalid_argument", "max_ndim", [](auto& t, auto&) { t.max_ndim = -1; }},
      {"invalid_argument", "accepts", [](auto& t, auto&) { t.accepts = 1 << 8; }},
      {"invalid_argument", "float4", [](auto& t, auto&) { t.float4 = 4; }},
      {"invalid_argument", "dtype_count", [](auto& t, auto&) { t.dtype_count = -1; }},
      {"invalid_argument", "dtypes", [](auto& t, auto&) { t.dtypes = nullptr; }},
      {"invalid_argument", "reserved", [](auto& t, auto&) { t.reserved = 1; }},
      {"invalid_dtype", "dtypes",
       [](auto& t, auto&) {
         t.dtypes = &pair;
         t.dtype_count = 1;
       }},
      {"invalid_argument", "copy", [](auto&, auto& r) { r.copy = 4; }},
      {"invalid_argument", "copy", [](auto&, auto& r) { r.copy = -1; }},
      {"invalid_argument", "named", [](auto&, auto& r) { r.named = 1 << 4; }},
      {"invalid_argument", "reserved", [](auto&, auto& r) { r.reserved = 1; }},
      {"invalid_device", "device",
       [](auto&, auto& r) {
         r.named = DLBRIDGE_NAMED_DEVICE;
         r.device = {static_cast<DLDeviceType>(5), 0};
       }},
      {"invalid_dtype", "dtype",
       [](auto&, auto& r) {
         r.named = DLBRIDGE_NAMED_DTYPE;
         r.dtype = {99, 8, 1};
       }},
  };
  VersionedProducer producer;
  for (const Row& row : rows) {
    dlb_traits traits = engine();
    auto request = sized<dlb_request>();
    row.spoil(traits, request);
    Answer answer;
    expect_failure(dlb_plan(producer.get(), &traits, &request, &answer.result),
                   DLBRIDGE_INVALID_ARGUMENT, row.code, row.field);
    EXPECT_STREQ(answer.message, "untouched");
  }
  auto result = sized<dlb_plan_result>();
  result.reasons_capacity = -1;
  expect_invalid(dlb_plan(producer.get(), nullptr, nullptr, &result), "reasons_capacity");
}

}  // namespace
}  // namespace dlbridge
