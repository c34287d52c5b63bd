// What only torch knows of its tensors on a GPU: the current stream, its allocator, and which other
// streams use its memory. By torch's own Python functions (dlbridge/_torch_gpu.py), in every tier.
//
// All need the GIL and throw Error (python_exception where torch raised).
#pragma once

#include <Python.h>

#include <cstdint>

#include "bridge/adapter.h"
#include "support/reference.h"

namespace dlbridge::python {

/// Whether this is torch's adapter, in whatever tier.
bool is_torch(const Adapter& adapter) noexcept;

/// Whether torch is imported and can allocate on a GPU here.
bool torch_can_allocate();

/// The stream that torch enqueues on now, on this thread and device; the legacy stream where torch
/// has no CUDA.
intptr_t torch_current_stream(int32_t device);

/// An uninitialised torch.Tensor on `device`, with this shape, these strides and this dtype.
/// Throws also Error (unsupported_device) where this torch has no CUDA.
Reference torch_device_empty(const TensorView& like, DLDataType dtype, int32_t device);

/// Tells torch's allocator that `stream` uses the memory of `tensor`: it is not used again before
/// that stream's work so far, at the time it is freed, has run.
void torch_record_stream(PyObject* tensor, int32_t device, intptr_t stream);

/// The same elements without conj or neg bit and with memory of their own; `tensor` itself where
/// there is nothing to do.
Reference torch_materialized(PyObject* tensor);

}  // namespace dlbridge::python
