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

[[noreturn, gnu::cold]] void refuse(DLDataType dtype) {
  throw Error(ErrorCode::unsupported_dtype, "dtype",
              "dtype is " + DType(dtype).name() + ", which NumPy does not have here");
}

// Writes the strides of `view` in bytes.
[[gnu::noinline]] void write_stride_bytes(const TensorView& view, DLDataType dtype,
                                          npy_intp* out) noexcept {
  const auto itemsize = static_cast<uint64_t>(DType(dtype).itemsize());
  // Unsigned: the stride of a dimension without a step (extent 0 or 1) may be any number.
  for (int32_t i = 0; i < view.ndim; ++i)
    out[i] = static_cast<npy_intp>(static_cast<uint64_t>(view.strides[i]) * itemsize);
}

// An array of the layout of `view`, without a base. `data` null: NumPy allocates. An array with a
// broadcast dimension is not writable, whatever `flags` says.
[[gnu::always_inline]] inline PyObject* new_array(const TensorView& view, DLDataType dtype,
                                                  void* data, int flags) {
  PyArray_Descr* descriptor = descriptor_for(dtype);
  if (descriptor == nullptr) [[unlikely]]
    refuse(dtype);
  // Without strides NumPy makes a row-major array and need not find out that it is one.
  const npy_intp* strides = nullptr;
  std::array<npy_intp, kMaxNdim> stride_bytes;
  uint64_t next = 1;
  int32_t inner = view.ndim;
  while (inner > 0 && static_cast<uint64_t>(view.strides[inner - 1]) == next)
    next *= static_cast<uint64_t>(view.shape[--inner]);
  if (inner > 0 || next == 0) [[unlikely]] {
    write_stride_bytes(view, dtype, stride_bytes.data());
    strides = stride_bytes.data();
    if (broadcast_dimension(view) >= 0) flags &= ~NPY_ARRAY_WRITEABLE;
  }
  Py_INCREF(descriptor);
  PyObject* array = PyArray_NewFromDescr(&PyArray_Type, descriptor, view.ndim, view.shape, strides,
                                         data, flags, nullptr);
  if (array == nullptr) [[unlikely]]
    throw_python_error();
  return array;
}

void* data_of(const TensorView& view) noexcept { return view.data ? view.data : &g_no_elements; }

// An array over memory that the caller keeps alive while it is used.
PyObject* borrow(const TensorView& memory, int flags) {
  return new_array(memory, memory.dtype, data_of(memory), flags);
}

}  // namespace

PyObject* to_ndarray(Loan&& loan) {
  const TensorView& view = loan.view();
  if (view.ndim > kMaxNdim) {
    throw Error(ErrorCode::too_many_dimensions, "ndim",
                "ndim is " + std::to_string(view.ndim) + "; NumPy has at most 64 dimensions");
  }
  PyObject* array = new_array(view, view.dtype, data_of(view),
                              view.access == Access::writable ? NPY_ARRAY_WRITEABLE : 0);
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
  PyObject* array = new_array(view, dtype, nullptr, 0);
  view.data = PyArray_DATA(as_array(array));
  return array;
}

void fill_from_ndarray(PyObject* array, const TensorView& dst) {
  const int type = PyArray_TYPE(as_array(array));
  const TypeCode to = DType(dst.dtype).code();
  // NumPy would warn that the imaginary part is dropped, of which the caller has warned.
  const bool real = (type == NPY_CFLOAT || type == NPY_CDOUBLE) && to != TypeCode::complex &&
                    to != TypeCode::boolean;
  PyObject* target = borrow(dst, NPY_ARRAY_WRITEABLE);
  PyObject* source =
      real ? PyArray_View(as_array(array), nullptr, &PyArray_Type) : Py_NewRef(array);
  if (real && source != nullptr) Py_SETREF(source, PyObject_GetAttrString(source, "real"));
  if (source == nullptr) {
    Py_DECREF(target);
    throw_python_error();
  }
  // Large copies release the GIL meanwhile.
  const int status =
      parked_at_exit([&] { return PyArray_CopyInto(as_array(target), as_array(source)); });
  Py_DECREF(target);
  Py_DECREF(source);
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
