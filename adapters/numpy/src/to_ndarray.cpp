// SPDX-License-Identifier: Apache-2.0
// Loan -> ndarray, and NumPy's memory for copies.
#include <algorithm>
#include <array>
#include <string>

#include "dlbridge/layout.h"
#include "dlbridge/numpy.h"
#include "dlbridge/python_object/interpreter_exit.h"
#include "dtype_map.h"
#include "loan_base.h"
#include "numpy_api.h"

namespace dlbridge {
namespace {

// The address of empty tensors: NumPy takes null as "allocate".
char g_no_elements = 0;

constexpr int32_t kMaxNdim = 64;

PyArray_Descr* new_descriptor(DLDataType dtype) {
  PyArray_Descr* descriptor = descriptor_for(dtype);
  if (descriptor == nullptr) {
    throw Error(ErrorCode::unsupported_dtype, "dtype",
                "dtype is " + DType(dtype).name() + ", which NumPy does not have here");
  }
  Py_INCREF(descriptor);
  return descriptor;
}

// An array over `data`, without a base; `data` null: NumPy allocates.
PyObject* new_array(const TensorView& view, const int64_t* strides, DLDataType dtype, void* data,
                    int flags) {
  PyArray_Descr* descriptor = new_descriptor(dtype);
  std::array<npy_intp, kMaxNdim> stride_bytes;
  const auto itemsize = static_cast<uint64_t>(DType(dtype).itemsize());
  // Unsigned: the stride of a dimension without a step (extent 0 or 1) may be any number.
  for (int32_t i = 0; i < view.ndim; ++i)
    stride_bytes[i] = static_cast<npy_intp>(static_cast<uint64_t>(strides[i]) * itemsize);
  PyObject* array = PyArray_NewFromDescr(&PyArray_Type, descriptor, view.ndim, view.shape,
                                         stride_bytes.data(), data, flags, nullptr);
  if (array == nullptr) throw_python_error();
  return array;
}

// An array over memory that the caller keeps alive while it is used.
PyObject* borrow(const TensorView& memory, int flags) {
  return new_array(memory, memory.strides, memory.dtype, memory.data ? memory.data : &g_no_elements,
                   flags);
}

bool is_writable(const TensorView& view) noexcept {
  return view.access == Access::writable && broadcast_dimension(view) < 0;
}

}  // namespace

PyObject* to_ndarray(Loan&& loan) {
  const TensorView& view = loan.view();
  if (view.ndim > kMaxNdim) {
    throw Error(ErrorCode::too_many_dimensions, "ndim",
                "ndim is " + std::to_string(view.ndim) + "; NumPy has at most 64 dimensions");
  }
  PyObject* array =
      new_array(view, view.strides, view.dtype, view.data ? view.data : &g_no_elements,
                is_writable(view) ? NPY_ARRAY_WRITEABLE : 0);
  LoanBase* base = new_loan_base();
  if (base == nullptr) {
    Py_DECREF(array);
    throw_python_error();
  }
  base->deleter = loan.release_deleter();
  base->original = loan.original ? loan.original : base->deleter;
  // What PyArray_SetBaseObject does for a new array and a base that is not an array. PyArray_BASE
  // is inline, so the member's place is part of NumPy's ABI.
  reinterpret_cast<PyArrayObject_fields*>(array)->base = reinterpret_cast<PyObject*>(base);
  return array;
}

PyObject* empty_ndarray(const TensorView& like, DLDataType dtype, Loan& memory) {
  memory.set_rank(like.ndim);
  std::copy_n(like.shape, like.ndim, memory.shape());
  dense_strides_like(like, memory.strides());
  TensorView& view = memory.view();
  view.dtype = dtype;
  view.subbyte_padded = DType(dtype).is_subbyte();
  PyObject* array = new_array(view, view.strides, dtype, nullptr, 0);
  view.data = PyArray_DATA(as_array(array));
  return array;
}

void fill_from_ndarray(PyObject* array, const TensorView& dst) {
  PyObject* target = borrow(dst, NPY_ARRAY_WRITEABLE);
  // Large copies release the GIL meanwhile.
  const int status =
      parked_at_exit([&] { return PyArray_CopyInto(as_array(target), as_array(array)); });
  Py_DECREF(target);
  if (status < 0) throw_python_error();
}

void cast_with_numpy(const TensorView& src, const TensorView& dst) {
  PyObject* source = borrow(src, 0);
  try {
    fill_from_ndarray(source, dst);
  } catch (...) {
    Py_DECREF(source);
    throw;
  }
  Py_DECREF(source);
}

}  // namespace dlbridge
