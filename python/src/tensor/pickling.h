// What dlbridge/_pickling.py is made of: a Tensor's memory as bytes, and bytes as a Tensor.
#pragma once

#include <nanobind/nanobind.h>

namespace dlbridge::python {

/// Adds `_dense_bytes` and `_tensor_over` to the module. Requires: Tensor is bound.
void bind_pickling(nanobind::module_& module);

}  // namespace dlbridge::python
