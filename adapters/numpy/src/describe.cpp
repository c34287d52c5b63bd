// SPDX-License-Identifier: Apache-2.0
// ndarray -> Loan.
#include <algorithm>
#include <cassert>

#include "dlbridge/numpy.h"
#include "dlbridge/python_object/hold.h"
#include "dtype_map.h"
#include "loan_base.h"
#include "numpy_api.h"

namespace dlbridge {
namespace {

// numpy.ma.MaskedArray, if numpy.ma was imported: otherwise no instance exists. Borrowed.
PyObject* masked_array_type() noexcept {
  PyObject* modules = PyImport_GetModuleDict();
  PyObject* module = modules ? PyDict_GetItemString(modules, "numpy.ma") : nullptr;
  PyObject* type = module ? PyObject_GetAttrString(module, "MaskedArray") : nullptr;
  if (type == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  Py_DECREF(type);  // the module keeps it
  return type;
}

bool is_masked(PyObject* array) noexcept {
  if (Py_TYPE(array) == &PyArray_Type) [[likely]]
    return false;
  PyObject* type = masked_array_type();
  return type != nullptr && PyType_IsSubtype(Py_TYPE(array), reinterpret_cast<PyTypeObject*>(type));
}

// Byte strides to element strides. Returns false where one does not divide, extents of 0 and 1
// aside.
bool read_strides(PyArrayObject* array, int shift, Loan& loan) noexcept {
  const npy_intp* shape = PyArray_DIMS(array);
  const npy_intp* stride_bytes = PyArray_STRIDES(array);
  int64_t* extents = loan.shape();
  int64_t* strides = loan.strides();
  // Every type that can be shared has a power of two as its size: shifting is exact, negative
  // strides included.
  const int64_t within = (int64_t{1} << shift) - 1;
  int64_t odd = 0;
  bool empty = false;
  for (int i = 0, ndim = PyArray_NDIM(array); i < ndim; ++i) {
    const int64_t extent = shape[i];
    const int64_t step = stride_bytes[i];
    extents[i] = extent;
    strides[i] = step >> shift;
    if (extent > 1) {
      odd |= step;
      continue;
    }
    // A step that is never taken, and that elements may not be able to count.
    if ((step & within) != 0) strides[i] = 0;
    empty |= extent == 0;
  }
  return (odd & within) == 0 || empty;
}

// The loan of an array that dlbridge made, through any number of NumPy views.
Deleter original_of(PyArrayObject* array) noexcept {
  PyObject* base = PyArray_BASE(array);
  while (base != nullptr && Py_TYPE(base) != &loan_base_type && PyArray_Check(base))
    base = PyArray_BASE(as_array(base));
  if (base == nullptr || Py_TYPE(base) != &loan_base_type) return {};
  return reinterpret_cast<LoanBase*>(base)->original;
}

}  // namespace

bool is_ndarray(PyObject* object) noexcept { return PyArray_Check(object); }

void describe_ndarray(PyObject* object, Loan& loan) {
  assert(is_ndarray(object));
  PyArrayObject* array = as_array(object);
  loan.set_rank(PyArray_NDIM(array));
  TensorView& view = loan.view();
  view.data = PyArray_DATA(array);
  view.access = PyArray_ISWRITEABLE(array) ? Access::writable : Access::read_only;
  if (is_masked(object)) [[unlikely]]
    view.reasons.add(ErrorCode::masked_array);
  if (PyArray_CHKFLAGS(array, NPY_ARRAY_WRITEBACKIFCOPY)) [[unlikely]]
    view.reasons.add(ErrorCode::writeback_if_copy);
  const NumpyDType& entry = entry_for(PyArray_TYPE(array));
  if (!entry.held) [[unlikely]] {
    view.reasons.add(ErrorCode::unsupported_dtype);
    const RefusedDType& refused = refused_dtype(PyArray_DESCR(array));
    view.detail = &refused;
    view.castable = refused.castable;
    view.dtype = DType(TypeCode::opaque, 8);
    std::copy_n(PyArray_DIMS(array), view.ndim, loan.shape());
    std::fill_n(loan.strides(), view.ndim, 0);
    return;
  }
  view.dtype = entry.dtype;
  view.subbyte_padded = entry.padded;
  if (!PyArray_ISNOTSWAPPED(array)) [[unlikely]]
    view.reasons.add(ErrorCode::byte_order);
  if (!read_strides(array, entry.shift, loan)) [[unlikely]]
    view.reasons.add(ErrorCode::stride_not_multiple);
  if (PyArray_BASE(array) != nullptr) loan.original = original_of(array);
}

void acquire_ndarray(PyObject* array, Loan& loan) noexcept { loan.attach(hold(array)); }

Loan share_ndarray(PyObject* array) {
  Loan loan;
  describe_ndarray(array, loan);
  const Plan decision = plan(loan.view(), neutral_traits(), {});
  if (decision.verdict != Verdict::share)
    throw refusal(loan.view(), neutral_traits(), {}, decision);
  acquire_ndarray(array, loan);
  return loan;
}

}  // namespace dlbridge
