// SPDX-License-Identifier: Apache-2.0
// describe_ndarray: shape, strides in elements, access and reasons of arrays as NumPy makes them;
// no reference taken.
#include <gtest/gtest.h>

#include <vector>

#include "dlbridge/numpy.h"
#include "interpreter.h"

namespace dlbridge {
namespace {

using test::eval;
using test::Ref;

using Dims = std::vector<int64_t>;

Loan described(const Ref& array) {
  Loan loan;
  describe_ndarray(array.get(), loan);
  return loan;
}

struct Layout {
  const char* name;
  const char* expression;
  Dims shape;
  Dims strides;
};

class DescribeLayout : public testing::TestWithParam<Layout> {};

void PrintTo(const Layout& row, std::ostream* out) { *out << row.expression; }

TEST_P(DescribeLayout, CountsStridesInElements) {
  const Ref array = eval(GetParam().expression);
  ASSERT_TRUE(array);
  const Loan loan = described(array);
  const TensorView& view = loan.view();
  EXPECT_EQ(Dims(view.shape, view.shape + view.ndim), GetParam().shape);
  EXPECT_EQ(Dims(view.strides, view.strides + view.ndim), GetParam().strides);
  EXPECT_TRUE(view.reasons.empty());
  EXPECT_FALSE(loan.owns_memory());
  const Ref address = eval("x.__array_interface__['data'][0]", array.get());
  EXPECT_EQ(view.data, PyLong_AsVoidPtr(address.get()));
}

INSTANTIATE_TEST_SUITE_P(
    All, DescribeLayout,
    testing::Values(
        Layout{"Scalar", "np.array(1.0)", {}, {}},
        Layout{"Compact", "np.zeros((2, 3), np.float32)", {2, 3}, {3, 1}},
        Layout{"Fortran", "np.zeros((2, 3), np.int16, order='F')", {2, 3}, {1, 2}},
        Layout{"Negative", "np.zeros(6)[::-2]", {3}, {-2}},
        Layout{"NegativeInner", "np.zeros((2, 3), np.complex128)[:, ::-1]", {2, 3}, {3, -1}},
        Layout{"Broadcast", "np.broadcast_to(np.zeros(3), (4, 3))", {4, 3}, {0, 1}},
        Layout{"SlidingWindow",
               "np.lib.stride_tricks.sliding_window_view(np.zeros(6), 3)",
               {4, 3},
               {1, 1}},
        Layout{"DividingField", "np.zeros(3, [('a', 'f4'), ('b', 'f4')])['b']", {3}, {2}},
        Layout{"OddFieldOfOneElement", "np.zeros(1, [('a', 'i1'), ('b', 'f4')])['b']", {1}, {0}}),
    [](const auto& row_info) { return std::string(row_info.param.name); });

TEST(Describe, EmptyArraysKeepTheirShape) {
  const Loan loan = described(eval("np.zeros((0, 3))"));
  ASSERT_EQ(loan.view().ndim, 2);
  EXPECT_EQ(loan.view().shape[0], 0);
  EXPECT_EQ(loan.view().shape[1], 3);
  EXPECT_EQ(loan.view().nbytes(), 0);
}

TEST(Describe, TakesNoReference) {
  const Ref array = eval("np.zeros(3)");
  const Py_ssize_t before = Py_REFCNT(array.get());
  const Loan loan = described(array);
  EXPECT_EQ(Py_REFCNT(array.get()), before);
}

TEST(Describe, TakesOddStridesWhenEmpty) {
  const Ref array = eval("np.zeros(0, [('a', 'i1'), ('b', 'f4')])['b']");
  const Loan loan = described(array);
  EXPECT_TRUE(loan.view().reasons.empty());
}

TEST(Describe, ReadOnlyIsSaid) {
  Loan loan;
  const Ref frozen = eval("np.frombuffer(b'12345678', np.uint8)");
  describe_ndarray(frozen.get(), loan);
  EXPECT_EQ(loan.view().access, Access::read_only);
  const Ref writable = eval("np.zeros(8, np.uint8)");
  const Loan other = described(writable);
  EXPECT_EQ(other.view().access, Access::writable);
}

TEST(Describe, TakesRankSixtyFour) {
  const Ref array = eval("np.zeros((1,) * 63 + (2,))");
  const Loan loan = described(array);
  EXPECT_EQ(loan.view().ndim, 64);
  EXPECT_EQ(loan.view().shape[63], 2);
  EXPECT_EQ(loan.view().strides[63], 1);
}

struct ReasonCase {
  const char* name;
  const char* expression;
  ErrorCode code;
  const char* found = nullptr;
};

class DescribeReason : public testing::TestWithParam<ReasonCase> {};

void PrintTo(const ReasonCase& row, std::ostream* out) { *out << row.expression; }

TEST_P(DescribeReason, IsNamed) {
  const Ref array = eval(GetParam().expression);
  ASSERT_TRUE(array);
  const Loan loan = described(array);
  EXPECT_TRUE(loan.view().reasons.has(GetParam().code));
  EXPECT_EQ(loan.view().reasons.first(), GetParam().code);
  if (GetParam().found != nullptr) {
    EXPECT_STREQ(loan.view().found(), GetParam().found);
  }
}

using enum ErrorCode;

INSTANTIATE_TEST_SUITE_P(
    All, DescribeReason,
    testing::Values(
        ReasonCase{"Masked", "np.ma.masked_array([1.0, 2.0], [0, 1])", masked_array},
        ReasonCase{"SwappedFloat", "np.zeros(3, '>f4')", byte_order},
        ReasonCase{"SwappedComplex", "np.zeros(3, '>c16')", byte_order},
        ReasonCase{"OddField", "np.zeros(3, [('a', 'i1'), ('b', 'f4')])['b']", stride_not_multiple},
        ReasonCase{"OddByteStride", "np.ndarray((3,), np.int16, np.zeros(16, np.int8), 0, (3,))",
                   stride_not_multiple},
        ReasonCase{"Object", "np.array([None])", unsupported_dtype, "object"},
        ReasonCase{"Structured", "np.zeros(3, [('a', 'f4')])", unsupported_dtype, "structured"},
        ReasonCase{"Void", "np.zeros(3, 'V5')", unsupported_dtype, "void"},
        ReasonCase{"Bytes", "np.array([b'ab'])", unsupported_dtype, "bytes (S)"},
        ReasonCase{"Text", "np.array(['ab'])", unsupported_dtype, "str (U)"},
        ReasonCase{"Datetime", "np.zeros(3, 'M8[s]')", unsupported_dtype, "datetime64"},
        ReasonCase{"Timedelta", "np.zeros(3, 'm8[s]')", unsupported_dtype, "timedelta64"},
        ReasonCase{"LongDouble", "np.zeros(3, np.longdouble)", unsupported_dtype, "longdouble"},
        ReasonCase{"ComplexLongDouble", "np.zeros(3, np.clongdouble)", unsupported_dtype,
                   "clongdouble"},
        ReasonCase{"StringDType", "np.array(['a'], np.dtypes.StringDType())", unsupported_dtype}),
    [](const auto& row_info) { return std::string(row_info.param.name); });

TEST(Describe, TakesOtherSubclasses) {
  const Ref matrix = eval("np.matrix([[1.0, 2.0]])");
  const Loan loan = described(matrix);
  EXPECT_TRUE(loan.view().reasons.empty());
}

TEST(IsNdarray, TakesSubclasses) {
  EXPECT_TRUE(is_ndarray(eval("np.zeros(3)").get()));
  EXPECT_TRUE(is_ndarray(eval("np.ma.zeros(3)").get()));
  EXPECT_FALSE(is_ndarray(eval("[1, 2]").get()));
  EXPECT_FALSE(is_ndarray(eval("np.float64(1)").get()));
  EXPECT_FALSE(is_ndarray(Py_None));
}

}  // namespace
}  // namespace dlbridge
