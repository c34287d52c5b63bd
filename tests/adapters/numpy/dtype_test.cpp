// SPDX-License-Identifier: Apache-2.0
// The map between NumPy's dtypes and DLPack's, in both directions, with and without ml_dtypes;
// parsing of dtypes.
#include <gtest/gtest.h>

#include "dlbridge/numpy.h"
#include "errors.h"
#include "interpreter.h"

namespace dlbridge {
namespace {

using test::eval;
using test::expect_error;
using test::holds;
using test::Ref;

class NumpyDtype : public testing::TestWithParam<const char*> {
 protected:
  static DType dtype() { return *DType::parse(GetParam()); }
};

TEST_P(NumpyDtype, RoundTrips) {
  const Ref array = eval("np.zeros(3, '" + std::string(GetParam()) + "')");
  ASSERT_TRUE(array);
  Loan loan = share_ndarray(array.get());
  EXPECT_EQ(DType(loan.view().dtype).name(), GetParam());
  const Ref back(to_ndarray(std::move(loan)));
  EXPECT_TRUE(holds("x[0].dtype == x[1].dtype and x[1].dtype.isnative",
                    Ref(Py_BuildValue("(OO)", array.get(), back.get())).get()));
}

TEST_P(NumpyDtype, IsParsed) {
  const std::string quoted = "'" + std::string(GetParam()) + "'";
  for (const std::string& text :
       {quoted, "np.dtype(" + quoted + ")", "np.dtype(" + quoted + ").type"}) {
    EXPECT_TRUE(DType(parse_numpy_dtype(eval(text).get())) == dtype()) << text;
  }
}

TEST_P(NumpyDtype, IsInTheTraits) { EXPECT_TRUE(numpy_traits().dtypes.contains(dtype())); }

INSTANTIATE_TEST_SUITE_P(All, NumpyDtype,
                         testing::Values("bool", "int8", "int16", "int32", "int64", "uint8",
                                         "uint16", "uint32", "uint64", "float16", "float32",
                                         "float64", "complex64", "complex128"),
                         [](const auto& row_info) { return std::string(row_info.param); });

TEST(Dtype, SharesBothInt64Types) {
  for (const char* code : {"l", "q", "L", "Q"}) {
    const Ref array = eval("np.zeros(2, '" + std::string(code) + "')");
    EXPECT_EQ(DType(share_ndarray(array.get()).view().dtype).bits(), 64);
  }
}

TEST(ParseDtype, RefusesUnknown) {
  for (const char* text : {"'O'", "'M8[s]'", "'S3'", "'U3'", "np.longdouble", "[('a', 'f4')]"}) {
    const Ref object = eval(text);
    expect_error(ErrorCode::invalid_dtype, [&] { parse_numpy_dtype(object.get()); });
    EXPECT_EQ(PyErr_Occurred(), nullptr);
  }
}

TEST(ParseDtype, RefusesForeignByteOrder) {
  const Ref object = eval("np.dtype('>f4')");
  expect_error(ErrorCode::byte_order, [&] { parse_numpy_dtype(object.get()); });
}

TEST(ParseDtype, KeepsNumpysError) {
  const Ref object = eval("'no such dtype'");
  expect_error(ErrorCode::python_exception, [&] { parse_numpy_dtype(object.get()); });
  EXPECT_TRUE(PyErr_ExceptionMatches(PyExc_TypeError));
  PyErr_Clear();
}

TEST(ParseDtype, BalancesReferences) {
  const Ref swapped = eval("np.dtype([('a', '>f4')])");
  const Py_ssize_t before = Py_REFCNT(swapped.get());
  for (int i = 0; i < 10; ++i)
    expect_error(ErrorCode::invalid_dtype, [&] { parse_numpy_dtype(swapped.get()); });
  EXPECT_EQ(Py_REFCNT(swapped.get()), before);
}

bool has_ml_dtypes() {
  return holds("__import__('importlib.util').util.find_spec('ml_dtypes') is not None");
}

TEST(MlDtypes, AreHeldOnceLoaded) {
  if (!has_ml_dtypes()) GTEST_SKIP() << "ml_dtypes is not installed";
  const DType bfloat16{TypeCode::bfloat, 16};
  if (numpy_traits().dtypes_missing.contains(bfloat16)) {
    EXPECT_FALSE(numpy_traits().dtypes.contains(bfloat16));
  }
  ASSERT_TRUE(load_ml_dtypes());
  EXPECT_TRUE(numpy_traits().dtypes.contains(bfloat16));
  EXPECT_FALSE(numpy_traits().dtypes_missing.contains(bfloat16));
}

// A package without the younger types, and with names that are no dtypes. In a process of its own
// (CMakeLists.txt): what is loaded once stays.
TEST(OlderMlDtypes, HoldWhatThePackageHas) {
  const DType bfloat16{TypeCode::bfloat, 16};
  const DType int4{TypeCode::int_, 4};
  if (!has_ml_dtypes()) GTEST_SKIP() << "ml_dtypes is not installed";
  if (!numpy_traits().dtypes_missing.contains(bfloat16))
    GTEST_SKIP() << "another test of this process has loaded ml_dtypes: run it under CTest";
  eval(
      "sys.modules.update(ml_dtypes=type('Old', (), {'bfloat16': __import__('ml_dtypes').bfloat16,"
      " 'int4': 3, 'float8_e5m2': np.float32}))");
  ASSERT_TRUE(load_ml_dtypes());
  EXPECT_EQ(PyErr_Occurred(), nullptr);
  EXPECT_TRUE(numpy_traits().dtypes.contains(bfloat16));
  for (const DType absent : {int4, *DType::parse("float8_e5m2"), *DType::parse("float8_e4m3fn")}) {
    EXPECT_FALSE(numpy_traits().dtypes.contains(absent)) << absent.name();
    EXPECT_TRUE(numpy_traits().dtypes_missing.contains(absent)) << absent.name();
  }
}

TEST(MlDtypes, KeepPendingExceptions) {
  PyErr_SetString(PyExc_KeyError, "mine");
  load_ml_dtypes();
  EXPECT_TRUE(PyErr_ExceptionMatches(PyExc_KeyError));
  PyErr_Clear();
}

TEST(MlDtypes, RoundTrip) {
  if (!has_ml_dtypes()) GTEST_SKIP() << "ml_dtypes is not installed";
  for (const char* name : {"bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu",
                           "float6_e2m3fn", "float4_e2m1fn", "int4", "uint4", "int2"}) {
    SCOPED_TRACE(name);
    const Ref array = eval("np.zeros(3, __import__('ml_dtypes')." + std::string(name) + ")");
    ASSERT_TRUE(array);
    Loan loan = share_ndarray(array.get());
    EXPECT_EQ(DType(loan.view().dtype).name(), name);
    EXPECT_EQ(loan.view().subbyte_padded, DType(loan.view().dtype).is_subbyte());
    const Ref back(to_ndarray(std::move(loan)));
    EXPECT_TRUE(holds("x[0].dtype == x[1].dtype and x[0].ctypes.data == x[1].ctypes.data",
                      Ref(Py_BuildValue("(OO)", array.get(), back.get())).get()));
  }
}

}  // namespace
}  // namespace dlbridge
