// SPDX-License-Identifier: Apache-2.0
// Tensor: the value of the neutral handle that from_dlpack() returns, and its adapter.
#pragma once

#include <Python.h>

#include "bridge/adapter.h"
#include "dlbridge/shared_loan.h"

namespace dlbridge::python {

/// The value of a Python dlbridge.Tensor.
struct Tensor {
  SharedLoan memory;
  /// The stream after which elements on a device are valid, as DLPack numbers it; 0: unknown.
  intptr_t stream = 0;
};

/// The Tensor that `x` is. Requires: tensor_adapter().accepts(x).
const Tensor& unpack_tensor(PyObject* x) noexcept;

/// The adapter that makes and takes Tensors.
const Adapter& tensor_adapter() noexcept;

/// Completes the adapter with the Python class and registers it.
void register_tensor_adapter(PyTypeObject* type);

}  // namespace dlbridge::python
