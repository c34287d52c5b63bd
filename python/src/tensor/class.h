// SPDX-License-Identifier: Apache-2.0
// The Python class dlbridge.Tensor.
#pragma once

#include <Python.h>

namespace dlbridge::python {

/// Adds the class to the module and its adapter to the registry. Throws.
void bind_tensor(PyObject* module);

}  // namespace dlbridge::python
