// SPDX-License-Identifier: Apache-2.0
// to_ndarray: an array over the loan's memory whose base owns the loan; flags, empties, high ranks,
// and who owns after a failure.
#include <gtest/gtest.h>

#include <vector>

#include "dlbridge/managed_tensor.h"
#include "dlbridge/numpy.h"
#include "errors.h"
#include "interpreter.h"
#include "memory.h"
#include "producer.h"

namespace dlbridge {
namespace {

using test::eval;
using test::expect_error;
using test::holds;
using test::LegacyProducer;
using test::Ref;
using test::ReleaseCounter;
using test::VersionedProducer;

using Dims = std::vector<int64_t>;

class ToNdarray : public testing::Test {
 protected:
  Loan owning_loan(void* data, const Dims& shape, const Dims& strides) {
    return test::make_loan(shape, strides, test::kFloat32, data, counter_.deleter());
  }

  ReleaseCounter counter_;
  float values_[6] = {0, 1, 2, 3, 4, 5};
};

TEST_F(ToNdarray, ReleasesOnce) {
  Loan loan = owning_loan(values_, {2, 3}, {3, 1});
  Ref array(to_ndarray(std::move(loan)));
  EXPECT_FALSE(loan.owns_memory());
  EXPECT_TRUE(
      holds("x.shape == (2, 3) and x.strides == (12, 4) and x.dtype == np.float32", array.get()));
  EXPECT_TRUE(holds("x.tolist() == [[0, 1, 2], [3, 4, 5]]", array.get()));
  EXPECT_EQ(counter_.count(), 0);
  array.drop();
  EXPECT_EQ(counter_.count(), 1);
}

TEST_F(ToNdarray, ViewsKeepTheMemory) {
  Ref array(to_ndarray(owning_loan(values_, {6}, {1})));
  Ref view = eval("x[::2]", array.get());
  array.drop();
  EXPECT_EQ(counter_.count(), 0);
  view.drop();
  EXPECT_EQ(counter_.count(), 1);
}

TEST_F(ToNdarray, WritesReachTheMemory) {
  const Ref array(to_ndarray(owning_loan(values_, {6}, {1})));
  eval("x.__setitem__(2, 9.0)", array.get());
  EXPECT_EQ(values_[2], 9.0f);
}

TEST_F(ToNdarray, BaseIsALoanBase) {
  const Ref source = eval("np.arange(6)");
  const Ref array(to_ndarray(share_ndarray(source.get())));
  EXPECT_TRUE(holds("type(x.base).__name__ == 'LoanBase' and not x.flags.owndata", array.get()));
  EXPECT_NE(array.get(), source.get());
  EXPECT_TRUE(holds("x[0].ctypes.data == x[1].ctypes.data",
                    Ref(Py_BuildValue("(OO)", source.get(), array.get())).get()));
}

TEST_F(ToNdarray, RoundTripReleasesOnce) {
  const Ref source = eval("np.arange(6)");
  const Py_ssize_t before = Py_REFCNT(source.get());
  {
    const Ref array(to_ndarray(share_ndarray(source.get())));
    EXPECT_EQ(Py_REFCNT(source.get()), before + 1);
  }
  EXPECT_EQ(Py_REFCNT(source.get()), before);
}

TEST_F(ToNdarray, KeepsLayouts) {
  int64_t values[24] = {};
  for (int i = 0; i < 24; ++i) values[i] = i;
  const auto array_of = [&](int64_t* first, const Dims& shape, const Dims& strides) {
    Loan loan = owning_loan(first, shape, strides);
    loan.view().dtype = {kDLInt, 64, 1};
    return Ref(to_ndarray(std::move(loan)));
  };
  EXPECT_TRUE(
      holds("x.tolist() == [[0, 3], [1, 4], [2, 5]]", array_of(values, {3, 2}, {1, 3}).get()));
  EXPECT_TRUE(holds("x.tolist() == [5, 3, 1]", array_of(values + 5, {3}, {-2}).get()));
  EXPECT_TRUE(holds("x.tolist() == [7, 7, 7]", array_of(values + 7, {3}, {0}).get()));
  EXPECT_TRUE(holds("x.tolist() == [[0, 1], [1, 2]]", array_of(values, {2, 2}, {1, 1}).get()));
  EXPECT_TRUE(holds("x.shape == () and x.item() == 3", array_of(values + 3, {}, {}).get()));
  EXPECT_EQ(counter_.count(), 5);
}

TEST_F(ToNdarray, MarksMisaligned) {
  alignas(8) char bytes[16] = {};
  const Ref array(to_ndarray(owning_loan(bytes + 1, {3}, {1})));
  EXPECT_TRUE(holds("not x.flags.aligned and x.sum() == 0", array.get()));
}

struct Writable {
  const char* name;
  Access access;
  Dims shape;
  Dims strides;
  bool expected;
};

class ToNdarrayWritable : public ToNdarray, public testing::WithParamInterface<Writable> {};

void PrintTo(const Writable& row, std::ostream* out) { *out << row.name; }

TEST_P(ToNdarrayWritable, NotWhereBroadcast) {
  Loan loan = owning_loan(values_, GetParam().shape, GetParam().strides);
  loan.view().access = GetParam().access;
  const Ref array(to_ndarray(std::move(loan)));
  EXPECT_EQ(holds("x.flags.writeable", array.get()), GetParam().expected);
}

INSTANTIATE_TEST_SUITE_P(
    All, ToNdarrayWritable,
    testing::Values(Writable{"Writable", Access::writable, {2, 3}, {3, 1}, true},
                    Writable{"ReadOnly", Access::read_only, {2, 3}, {3, 1}, false},
                    Writable{"Unknown", Access::unknown, {2, 3}, {3, 1}, false},
                    Writable{"Broadcast", Access::writable, {2, 3}, {0, 1}, false},
                    Writable{"ZeroStrideOfExtentOne", Access::writable, {1, 3}, {0, 1}, true}),
    [](const auto& row_info) { return std::string(row_info.param.name); });

TEST_F(ToNdarray, StaysReadOnly) {
  Loan loan = owning_loan(values_, {3}, {1});
  loan.view().access = Access::read_only;
  const Ref array(to_ndarray(std::move(loan)));
  const Ref done(PyObject_CallMethod(array.get(), "setflags", "i", 1));
  EXPECT_FALSE(done);
  EXPECT_TRUE(PyErr_ExceptionMatches(PyExc_ValueError));
  PyErr_Clear();
}

TEST_F(ToNdarray, ReadOnlyRoundTrips) {
  const Ref frozen = eval("np.frombuffer(b'12345678', np.uint8)");
  const Ref array(to_ndarray(share_ndarray(frozen.get())));
  EXPECT_FALSE(holds("x.flags.writeable", array.get()));
}

TEST_F(ToNdarray, TakesNullWhenEmpty) {
  Ref array(to_ndarray(owning_loan(nullptr, {0, 3}, {3, 1})));
  EXPECT_TRUE(holds("x.shape == (0, 3) and x.size == 0 and x.sum() == 0 and not x.flags.owndata",
                    array.get()));
  array.drop();
  EXPECT_EQ(counter_.count(), 1);
}

TEST_F(ToNdarray, TakesAbsurdStrides) {
  const Ref one(to_ndarray(owning_loan(values_, {1, 3}, {INT64_MAX, 1})));
  EXPECT_TRUE(holds("x.tolist() == [[0, 1, 2]]", one.get()));
  const Ref empty(to_ndarray(owning_loan(nullptr, {0, 3}, {INT64_MIN, INT64_MAX})));
  EXPECT_TRUE(holds("x.shape == (0, 3)", empty.get()));
}

TEST_F(ToNdarray, TakesRankSixtyFour) {
  Dims shape(64, 1);
  shape[63] = 2;
  const Ref array(to_ndarray(owning_loan(values_, shape, Dims(64, 1))));
  EXPECT_TRUE(holds("x.ndim == 64 and x.shape[63] == 2", array.get()));
}

TEST_F(ToNdarray, FailureKeepsTheLoan) {
  Loan loan = owning_loan(values_, Dims(65, 1), Dims(65, 1));
  expect_error(ErrorCode::too_many_dimensions, [&] { to_ndarray(std::move(loan)); });
  EXPECT_TRUE(loan.owns_memory());
  Loan strange = owning_loan(values_, {2}, {1});
  strange.view().dtype = {kDLComplex, 32, 1};
  expect_error(ErrorCode::unsupported_dtype, [&] { to_ndarray(std::move(strange)); });
  EXPECT_TRUE(strange.owns_memory());
  EXPECT_EQ(counter_.count(), 0);
  EXPECT_EQ(PyErr_Occurred(), nullptr);
}

TEST_F(ToNdarray, NumpyFailureKeepsTheLoan) {
  Loan loan = owning_loan(nullptr, {INT64_MAX, INT64_MAX}, {0, 0});
  expect_error(ErrorCode::python_exception, [&] { to_ndarray(std::move(loan)); });
  EXPECT_TRUE(PyErr_ExceptionMatches(PyExc_ValueError));
  PyErr_Clear();
  EXPECT_TRUE(loan.owns_memory());
  EXPECT_EQ(counter_.count(), 0);
}

TEST_F(ToNdarray, DeletesForeignOnce) {
  VersionedProducer versioned;
  LegacyProducer legacy;
  {
    const Ref array(to_ndarray(ManagedTensor::adopt(versioned.get()).to_loan()));
    EXPECT_TRUE(holds("x.tolist() == [[0, 1, 2], [3, 4, 5]] and x.flags.writeable", array.get()));
    Loan loan;
    describe_managed(legacy.get(), loan);
    loan.attach(deleter_of(legacy.get()));
    const Ref old(to_ndarray(std::move(loan)));
    EXPECT_TRUE(holds("x.shape == (2, 3) and not x.flags.writeable", old.get()));
    EXPECT_EQ(versioned.deletions() + legacy.deletions(), 0);
  }
  EXPECT_EQ(versioned.deletions(), 1);
  EXPECT_EQ(legacy.deletions(), 1);
}

}  // namespace
}  // namespace dlbridge
