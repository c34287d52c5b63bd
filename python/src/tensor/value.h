// Tensor: the neutral handle that from_dlpack() returns, and its adapter.
#pragma once

#include <Python.h>

#include "bridge/adapter.h"
#include "dlbridge/shared_loan.h"

namespace dlbridge::python {

/// The Python class's content.
struct Tensor {
  SharedLoan memory;
  /// The stream behind which elements on a device are, as DLPack numbers them; 0: not known.
  intptr_t stream = 0;
};

/// Adds the class to the module and its adapter to the registry.
void bind_tensor(PyObject* module);

/// The Tensor that `x` is. Requires: tensor_adapter().accepts(x).
const Tensor& unpack_tensor(PyObject* x) noexcept;

/// Where `x` is a Tensor on a device: its elements are behind `stream`.
void set_stream(PyObject* x, intptr_t stream) noexcept;

/// The adapter that makes and takes Tensors.
const Adapter& tensor_adapter() noexcept;

}  // namespace dlbridge::python
