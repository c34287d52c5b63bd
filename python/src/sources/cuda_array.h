// __cuda_array_interface__: taking objects that have it and no __dlpack__, and offering it for
// Tensors on a GPU. https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html, versions
// 2 and 3.
#pragma once

#include <Python.h>

#include "bridge/adapter.h"
#include "support/reference.h"

namespace dlbridge::python {

/// The attribute of `x`, or null without a Python exception where it has none.
Reference cuda_array_interface_of(PyObject* x) noexcept;

/// Describes the memory that `interface` names, without an owner, and the stream behind which its
/// elements are (-1: the producer says there is nothing to wait for). Throws Error.
void describe_cuda_array(PyObject* interface, Loan& loan, intptr_t& stream);

/// The adapter of such objects: its acquire() holds a reference to the object.
const Adapter& cuda_array_adapter() noexcept;

/// The interface of a view on a CUDA device, version 3. Null with AttributeError set where it has
/// none: host memory, a type that NumPy has no code for.
PyObject* offer_cuda_array(const TensorView& view, intptr_t stream) noexcept;

}  // namespace dlbridge::python
