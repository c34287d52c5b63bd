// SPDX-License-Identifier: Apache-2.0
// The Python class dlbridge.Tensor.
#pragma once

#include <nanobind/nanobind.h>

namespace dlbridge::python {

/// Adds the class to the module and its adapter to the registry.
void bind_tensor(nanobind::module_& module);

}  // namespace dlbridge::python
