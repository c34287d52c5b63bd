// SPDX-License-Identifier: Apache-2.0
// dlbridge._numpy: puts the NumPy adapter into a capsule. No types of its own, so plain C API.
#include "bridge/capsule_module.h"
#include "dlbridge/numpy.h"
#include "support/dtype_argument.h"
#include "support/errors.h"
#include "support/reference.h"

namespace dlbridge::python {
namespace {

// The exact ndarray type, kept for good.
PyObject* g_ndarray = nullptr;

// Subclasses are taken as what they hold, unless they say themselves how they want to be exchanged.
bool accepts(PyObject* x) noexcept {
  if (!is_ndarray(x)) return false;
  const Reference own(
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(Py_TYPE(x)), "__dlpack__"));
  const Reference plain(PyObject_GetAttrString(g_ndarray, "__dlpack__"));
  PyErr_Clear();
  return own.get() == plain.get();
}

Error* describe(PyObject* x, Loan* loan) noexcept {
  return guarded([&] { describe_ndarray(x, *loan); });
}

Error* acquire(PyObject* x, Loan* loan) noexcept {
  acquire_ndarray(x, *loan);
  return nullptr;
}

Error* wrap(Loan* loan, PyObject** out) noexcept {
  return guarded([&] { *out = to_ndarray(std::move(*loan)); });
}

Error* empty(const TensorView* like, DLDataType dtype, PyObject** out, Loan* memory) noexcept {
  return guarded([&] { *out = empty_ndarray(*like, dtype, *memory); });
}

Error* fill(PyObject* x, const TensorView* dst) noexcept {
  return guarded([&] { fill_from_ndarray(x, *dst); });
}

Error* cast(const TensorView* src, const TensorView* dst) noexcept {
  return guarded([&] { cast_with_numpy(*src, *dst); });
}

Error* parse_dtype(PyObject* dtype, DLDataType* out) noexcept {
  return guarded([&] {
    *out = parse_named_dtype(dtype, numpy_traits());
    if (numpy_traits().dtypes_missing.contains(*out)) load_ml_dtypes();
  });
}

Adapter g_adapter = {
    .traits = &numpy_traits(),
    .accepts = accepts,
    .describe = describe,
    .acquire = acquire,
    .wrap = wrap,
    .empty = empty,
    .fill = fill,
    .cast = cast,
    .parse_dtype = parse_dtype,
    .extend = load_ml_dtypes,
};

PyModuleDef g_module = {PyModuleDef_HEAD_INIT, "_numpy", "The NumPy adapter of dlbridge.", -1};

}  // namespace
}  // namespace dlbridge::python

PyMODINIT_FUNC PyInit__numpy() {
  using namespace dlbridge::python;
  try {
    dlbridge::initialize_numpy();
  } catch (const dlbridge::Error& error) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_ImportError, error.what());
    return nullptr;
  }
  return translated([] {
    g_ndarray = python_attribute("numpy", "ndarray").release();
    g_adapter.exact_types[0] = reinterpret_cast<PyTypeObject*>(g_ndarray);
    return new_adapter_module(g_module, g_adapter);
  });
}
