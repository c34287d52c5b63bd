// SPDX-License-Identifier: Apache-2.0
// Memory of NumPy's own for copies, and NumPy's casts into memory of ours: what a plan's copy and
// cast are made of.
#include <gtest/gtest.h>

#include <cstring>

#include "dlbridge/numpy.h"
#include "errors.h"
#include "interpreter.h"
#include "memory.h"
#include "shaped.h"

namespace dlbridge {
namespace {

using test::eval;
using test::expect_error;
using test::GuardedBuffer;
using test::holds;
using test::kFloat32;
using test::kFloat64;
using test::kInt32;
using test::Ref;
using test::Shaped;

TEST(EmptyNdarray, OwnsWritableMemory) {
  Loan memory;
  const Ref array(empty_ndarray(Shaped({2, 3}, {1, 2}).view(), kFloat64, memory));
  EXPECT_TRUE(
      holds("x.shape == (2, 3) and x.dtype == np.float64 and x.flags.owndata", array.get()));
  EXPECT_TRUE(holds("x.flags.writeable and x.flags.f_contiguous", array.get()));
  EXPECT_EQ(memory.view().access, Access::writable);
  EXPECT_EQ(memory.view().strides[1], 2);
  EXPECT_FALSE(memory.owns_memory());
  EXPECT_EQ(Py_REFCNT(array.get()), 1);
  std::memset(memory.view().data, 0, 48);
  EXPECT_TRUE(holds("x.sum() == 0", array.get()));
}

TEST(EmptyNdarray, TakesScalarsAndEmpties) {
  Loan scalar;
  const Ref one(empty_ndarray(Shaped({}, {}).view(), kInt32, scalar));
  EXPECT_TRUE(holds("x.shape == ()", one.get()));
  Loan nothing;
  const Ref none(empty_ndarray(Shaped({0, 3}).view(), kInt32, nothing));
  EXPECT_TRUE(holds("x.shape == (0, 3)", none.get()));
}

TEST(EmptyNdarray, RefusesMissingDtypes) {
  Loan memory;
  expect_error(ErrorCode::unsupported_dtype,
               [&] { empty_ndarray(Shaped({2}).view(), DType(TypeCode::complex, 32), memory); });
}

struct Source {
  const char* name;
  const char* expression;  // twelve values 0 … 11 in shape (3, 4)
};

class FillFromNdarray : public testing::TestWithParam<Source> {};

void PrintTo(const Source& row, std::ostream* out) { *out << row.expression; }

TEST_P(FillFromNdarray, ResolvesOddArrays) {
  const Ref array = eval(GetParam().expression);
  ASSERT_TRUE(array);
  const Py_ssize_t before = Py_REFCNT(array.get());
  GuardedBuffer buffer(12 * 8);
  fill_from_ndarray(array.get(), Shaped({3, 4}, {4, 1}, kFloat64, buffer.data()).view());
  for (int i = 0; i < 12; ++i) {
    double value = -1;
    std::memcpy(&value, buffer.data() + i * 8, 8);
    EXPECT_EQ(value, i);
  }
  EXPECT_TRUE(buffer.guards_intact());
  EXPECT_EQ(Py_REFCNT(array.get()), before);
}

INSTANTIATE_TEST_SUITE_P(
    All, FillFromNdarray,
    testing::Values(Source{"Plain", "np.arange(12.0).reshape(3, 4)"},
                    Source{"Swapped", "np.arange(12.0).reshape(3, 4).astype('>f8')"},
                    Source{"Integers", "np.arange(12, dtype=np.int16).reshape(3, 4)"},
                    Source{"Backwards", "np.arange(11.0, -1, -1)[::-1].reshape(3, 4)"},
                    Source{"Fortran", "np.asfortranarray(np.arange(12.0).reshape(3, 4))"},
                    Source{
                        "OddField",
                        "(lambda a: (a.__setitem__('v', np.arange(12.0).reshape(3, 4)), a['v'])[1])"
                        "(np.zeros((3, 4), [('p', 'i1'), ('v', 'f8')]))"},
                    Source{"ReadOnly", "np.frombuffer(np.arange(12.0).tobytes()).reshape(3, 4)"}),
    [](const auto& row_info) { return std::string(row_info.param.name); });

TEST(FillFromNdarray, WritesIntoAnyLayout) {
  const Ref array = eval("np.array([[1, 2], [3, 4]], np.int32)");
  GuardedBuffer buffer(8 * 4);
  fill_from_ndarray(array.get(), Shaped({2, 2}, {-4, 2}, kInt32, buffer.data() + 16).view());
  int32_t values[8];
  std::memcpy(values, buffer.data(), sizeof values);
  EXPECT_EQ(values[4], 1);
  EXPECT_EQ(values[6], 2);
  EXPECT_EQ(values[0], 3);
  EXPECT_EQ(values[2], 4);
  for (int i : {1, 3, 5, 7}) EXPECT_EQ(static_cast<uint32_t>(values[i]), 0xCDCDCDCDu);
  EXPECT_TRUE(buffer.guards_intact());
}

TEST(FillFromNdarray, KeepsNumpysError) {
  const Ref array = eval("np.zeros((2, 3))");
  GuardedBuffer buffer(16);
  expect_error(ErrorCode::python_exception, [&] {
    fill_from_ndarray(array.get(), Shaped({4}, {1}, kFloat32, buffer.data()).view());
  });
  EXPECT_TRUE(PyErr_ExceptionMatches(PyExc_ValueError));
  PyErr_Clear();
}

TEST(CastWithNumpy, CastsLikeAstype) {
  float from[] = {1.5f, -2.5f, 300.0f};
  int32_t to[3] = {};
  cast_with_numpy(Shaped({3}, {1}, kFloat32, from).view(), Shaped({3}, {1}, kInt32, to).view());
  EXPECT_EQ(to[0], 1);
  EXPECT_EQ(to[1], -2);
  EXPECT_EQ(to[2], 300);
}

TEST(CastWithNumpy, TakesStridesAndEmpties) {
  float from[] = {0, 1, 2, 3};
  double to[] = {9, 9, 9};
  cast_with_numpy(Shaped({2}, {-2}, kFloat32, from + 3).view(),
                  Shaped({2}, {2}, kFloat64, to).view());
  EXPECT_EQ(to[0], 3.0);
  EXPECT_EQ(to[1], 9.0);
  EXPECT_EQ(to[2], 1.0);
  cast_with_numpy(Shaped({0}, {1}, kFloat32, nullptr).view(),
                  Shaped({0}, {1}, kFloat64, nullptr).view());
}

TEST(CastWithNumpy, RefusesMissingDtypes) {
  float values[2] = {};
  expect_error(ErrorCode::unsupported_dtype, [&] {
    cast_with_numpy(Shaped({2}, {1}, DType(TypeCode::complex, 32), values).view(),
                    Shaped({2}, {1}, kFloat64, values).view());
  });
}

TEST(CastWithNumpy, RefusalWritesNothing) {
  float from[] = {1, 2};
  GuardedBuffer to(8);
  const auto cast = [&] {
    expect_error(ErrorCode::unsupported_dtype, [&] {
      cast_with_numpy(Shaped({2}, {1}, kFloat32, from).view(),
                      Shaped({2}, {1}, DType(TypeCode::complex, 32), to.data()).view());
    });
  };
  cast();
  const Ref before = eval("sys.getallocatedblocks()");
  for (int i = 0; i < 100; ++i) cast();
  EXPECT_TRUE(holds("sys.getallocatedblocks() - x < 50", before.get()));  // no array is left behind
  EXPECT_EQ(from[1], 2.0f);
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(to.data()[i], GuardedBuffer::kPoison);
  EXPECT_TRUE(to.guards_intact());
}

TEST(Writeback, IsRefused) {
  // Only C code and nditer make such arrays; nditer's operands carry the flag while it is open.
  eval(
      "globals().update(open_iterator=np.nditer(np.zeros(3, '>f8'), [],"
      " [['readwrite', 'updateifcopy', 'nbo']]))");
  const Ref array = eval("open_iterator.operands[0]");
  ASSERT_TRUE(array);
  ASSERT_TRUE(holds("x.flags.writebackifcopy", array.get()));
  Loan loan;
  describe_ndarray(array.get(), loan);
  EXPECT_TRUE(loan.view().reasons.has(ErrorCode::writeback_if_copy));
  const Py_ssize_t before = Py_REFCNT(array.get());
  expect_error(ErrorCode::writeback_if_copy,
               [&] { const Loan shared = share_ndarray(array.get()); });
  EXPECT_EQ(Py_REFCNT(array.get()), before);
  eval("globals().pop('open_iterator').close()");
}

}  // namespace
}  // namespace dlbridge
