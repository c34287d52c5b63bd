// SPDX-License-Identifier: Apache-2.0
// require(): the first requirement that a view does not meet, with a call that works.
#include "dlbridge/require.h"

#include <gtest/gtest.h>

#include "errors.h"
#include "shaped.h"

namespace dlbridge {
namespace {

using test::kFloat32;
using test::kFloat64;
using test::Shaped;

constexpr Requirements kAll{.dtype = kFloat32, .ndim = 2, .row_major = true, .writable = true};

void expect_refusal(const TensorView& view, ErrorCode code, const char* field, const char* text) {
  const std::optional<Error> error = test::error_of([&] { require(view, kAll); });
  ASSERT_TRUE(error.has_value()) << text;
  EXPECT_EQ(error->code(), code);
  EXPECT_EQ(error->field(), field);
  EXPECT_STREQ(error->what(), text);
}

TEST(Require, TakesWhatIsMet) {
  Shaped pinned({3, 4});
  pinned.fields().device = Device(DeviceType::cuda_host, 1);
  EXPECT_NO_THROW(require(pinned.view(), kAll));
  Shaped any({3}, {-2}, kFloat64);
  any.fields().device = Device(DeviceType::cuda);
  any.fields().access = Access::unknown;
  EXPECT_NO_THROW(require(any.view(), {.host = false}));
}

TEST(Require, NamesTheFirstThatIsNotMet) {
  Shaped wrong({3}, {2}, kFloat64);
  wrong.fields().device = Device(DeviceType::cuda, 1);
  wrong.fields().access = Access::read_only;
  expect_refusal(wrong.view(), ErrorCode::unsupported_device, "device",
                 "device is cuda:1; expected host memory: pass dlbridge.to_numpy(x, "
                 "device=\"cpu\")");
  wrong.fields().device = Device(DeviceType::cpu);
  expect_refusal(wrong.view(), ErrorCode::unsupported_dtype, "dtype",
                 "dtype is float64; expected float32: pass dlbridge.to_numpy(x, "
                 "dtype=\"float32\")");
  wrong.fields().dtype = kFloat32;
  expect_refusal(wrong.view(), ErrorCode::shape_mismatch, "shape",
                 "shape is (3,); expected 2 dimensions: reshape x");
  Shaped transposed({3, 4}, {1, 3});
  transposed.fields().access = Access::unknown;
  expect_refusal(transposed.view(), ErrorCode::invalid_argument, "strides",
                 "strides are (1, 3); expected row-major elements without gaps: pass "
                 "dlbridge.to_numpy(x, order=\"C\")");
  Shaped unknown({3, 4});
  unknown.fields().access = Access::unknown;
  expect_refusal(unknown.view(), ErrorCode::read_only, "flags",
                 "the memory is read-only; expected writable memory: pass dlbridge.to_numpy(x, "
                 "copy=True)");
}

}  // namespace
}  // namespace dlbridge
