// SPDX-License-Identifier: Apache-2.0
#define DLBRIDGE_NUMPY_IMPORTS
#include "dlbridge/numpy.h"
#include "dtype_map.h"
#include "loan_base.h"
#include "numpy_api.h"

namespace dlbridge {

void initialize_numpy() {
  static bool initialized = false;
  if (initialized) return;
  if (PyArray_ImportNumPyAPI() < 0) {
    PyErr_Clear();
    throw Error(
        ErrorCode::adapter_unavailable, "numpy",
        "NumPy's C API could not be loaded; expected NumPy 1.26 or later: pip install numpy");
  }
  if (PyType_Ready(&loan_base_type) < 0) throw_python_error();
  initialize_dtype_map();
  initialized = true;
}

}  // namespace dlbridge
