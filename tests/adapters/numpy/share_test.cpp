// SPDX-License-Identifier: Apache-2.0
// share_ndarray: one reference to the array, given back once; nothing is kept after a refusal; the
// loan behind an array of ours is found again.
#include <gtest/gtest.h>

#include "dlbridge/managed_tensor.h"
#include "dlbridge/numpy.h"
#include "errors.h"
#include "interpreter.h"
#include "memory.h"
#include "producer.h"

namespace dlbridge {
namespace {

using test::error_of;
using test::eval;
using test::expect_error;
using test::Ref;
using test::ReleaseCounter;
using test::VersionedProducer;

TEST(Share, HoldsOneReference) {
  const Ref array = eval("np.zeros((2, 3))");
  const Py_ssize_t before = Py_REFCNT(array.get());
  {
    const Loan loan = share_ndarray(array.get());
    EXPECT_EQ(Py_REFCNT(array.get()), before + 1);
    EXPECT_TRUE(loan.owns_memory());
  }
  EXPECT_EQ(Py_REFCNT(array.get()), before);
}

TEST(Share, KeepsTheArrayAlive) {
  Ref array = eval("np.full(1000, 7, np.int32)");
  const Loan loan = share_ndarray(array.get());
  array.drop();
  eval("gc.collect()");
  const auto* values = static_cast<const int32_t*>(loan.view().data);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(values[i], 7);
}

TEST(Share, SurvivesExport) {
  const Ref array = eval("np.arange(6.0)[::-1]");
  const Py_ssize_t before = Py_REFCNT(array.get());
  {
    const ManagedTensor tensor(share_ndarray(array.get()));
    EXPECT_EQ(tensor.get()->dl_tensor.strides[0], -1);
    EXPECT_EQ(*static_cast<double*>(tensor.get()->dl_tensor.data), 5.0);
    EXPECT_EQ(Py_REFCNT(array.get()), before + 1);
  }
  EXPECT_EQ(Py_REFCNT(array.get()), before);
}

TEST(Share, ReadOnlyIsFlagged) {
  const Ref array = eval("np.frombuffer(b'12345678', np.uint8)");
  const ManagedTensor tensor(share_ndarray(array.get()));
  EXPECT_EQ(tensor.get()->flags, kReadOnly);
}

struct Refused {
  const char* name;
  const char* expression;
  ErrorCode code;
};

class ShareRefuses : public testing::TestWithParam<Refused> {};

void PrintTo(const Refused& row, std::ostream* out) { *out << row.expression; }

TEST_P(ShareRefuses, KeepsNoReference) {
  const Ref array = eval(GetParam().expression);
  ASSERT_TRUE(array);
  const Py_ssize_t before = Py_REFCNT(array.get());
  for (int i = 0; i < 3; ++i)
    expect_error(GetParam().code, [&] { const Loan loan = share_ndarray(array.get()); });
  EXPECT_EQ(Py_REFCNT(array.get()), before);
  EXPECT_EQ(PyErr_Occurred(), nullptr);
}

INSTANTIATE_TEST_SUITE_P(
    All, ShareRefuses,
    testing::Values(Refused{"Masked", "np.ma.masked_array([1.0], [1])", ErrorCode::masked_array},
                    Refused{"ByteOrder", "np.zeros(3, '>i4')", ErrorCode::byte_order},
                    Refused{"OddStride", "np.zeros(3, [('a', 'i1'), ('b', 'f4')])['b']",
                            ErrorCode::stride_not_multiple},
                    Refused{"Object", "np.array([None])", ErrorCode::unsupported_dtype},
                    Refused{"Datetime", "np.zeros(3, 'M8[s]')", ErrorCode::unsupported_dtype}),
    [](const auto& row_info) { return std::string(row_info.param.name); });

TEST(Share, MaskedArrayNamesFilled) {
  const Ref array = eval("np.ma.masked_array([1.0], [1])");
  const auto error = error_of([&] { const Loan loan = share_ndarray(array.get()); });
  ASSERT_TRUE(error.has_value());
  EXPECT_NE(std::string(error->what()).find(".filled("), std::string::npos) << error->what();
}

TEST(Original, IsEmptyForNumpysOwn) {
  EXPECT_FALSE(share_ndarray(eval("np.zeros(3)").get()).original);
  EXPECT_FALSE(share_ndarray(eval("np.zeros(6)[::2]").get()).original);
  EXPECT_FALSE(share_ndarray(eval("np.frombuffer(bytearray(8), np.uint8)").get()).original);
}

TEST(Original, IsFoundThroughViews) {
  ReleaseCounter counter;
  float values[6] = {};
  Loan loan = test::make_loan({6}, {1}, test::kFloat32, values, counter.deleter());
  {
    const Ref array(to_ndarray(std::move(loan)));
    for (const char* view :
         {"x", "x[::2]", "x[1:][::-1]", "x.reshape(2, 3).T", "x.view(np.int32)"}) {
      const Ref seen = eval(view, array.get());
      const Loan shared = share_ndarray(seen.get());
      EXPECT_EQ(shared.original.context, &counter) << view;
      EXPECT_EQ(shared.original.release, counter.deleter().release) << view;
    }
    EXPECT_FALSE(share_ndarray(eval("x.copy()", array.get()).get()).original);
    EXPECT_EQ(counter.count(), 0);
  }
  EXPECT_EQ(counter.count(), 1);
}

}  // namespace
}  // namespace dlbridge
