// SPDX-License-Identifier: Apache-2.0
// The one include of NumPy's C API: one function table for the whole library.
#pragma once

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_1_22_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL dlbridge_numpy_api
#ifndef DLBRIDGE_NUMPY_IMPORTS
#define NO_IMPORT_ARRAY
#endif

#include <Python.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wold-style-cast"
#include <numpy/arrayobject.h>
#pragma GCC diagnostic pop

#include "dlbridge/error.h"

namespace dlbridge {

inline PyArrayObject* as_array(PyObject* object) noexcept {
  return reinterpret_cast<PyArrayObject*>(object);
}

/// For calls that failed with a Python error set.
[[noreturn]] inline void throw_python_error() {
  throw Error(ErrorCode::python_exception, "", "a Python exception is set");
}

}  // namespace dlbridge
