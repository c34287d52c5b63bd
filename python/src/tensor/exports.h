// SPDX-License-Identifier: Apache-2.0
// The class dlbridge.Tensor and what it offers to consumers: the buffer protocol, pickling, the
// DLPack exchange table, __cuda_array_interface__, __array_interface__; and what the package offers
// to extension modules.
#pragma once

#include <nanobind/nanobind.h>

#include "dlbridge/tensor_view.h"

namespace dlbridge::python {

/// The slot Py_bf_getbuffer (PEP 3118): host memory of the types that have a format. Refuses with
/// ExchangeError, which is a BufferError: device_not_named, read_only, overlap (broadcast memory,
/// requested as writable), unsupported_dtype, too_many_dimensions, invalid_argument (not contiguous
/// as requested). A consumer that requests no format gets the memory of every dtype whose elements
/// are whole bytes; one that requests no shape either gets that of all others.
/// Every Py_buffer holds a reference to its Tensor, so an export needs no reference of its own.
int get_buffer(PyObject* self, Py_buffer* out, int flags) noexcept;

/// The slot Py_bf_releasebuffer.
void release_buffer(PyObject* self, Py_buffer* buffer) noexcept;

/// Adds the class dlbridge.Tensor to the module and its adapter to the registry. Throws.
void bind_tensor(PyObject* module);

/// Adds _dense_bytes and _tensor_over to the module, which dlbridge._pickling uses.
void bind_pickling(nanobind::module_& module);

/// A new capsule of the table of dlbridge.Tensor, which has the same address for the life of the
/// process. Throws.
PyObject* new_exchange_capsule();

/// Adds the capsule of dlbridge/python.h to the module. Throws.
void bind_extension_api(PyObject* module);

/// The interface of a view on a CUDA device, version 3: a new dict. Throws AttributeError where it
/// has none: host memory, a type for which NumPy has no code.
PyObject* offer_cuda_array(const TensorView& view, intptr_t stream);

/// NumPy's array interface, version 3, of a view on the host: a new dict, which owns nothing; its
/// consumer keeps the Tensor. Broadcast memory is read-only in it. Throws AttributeError where it
/// has none: memory of a device, a type for which NumPy has no code.
PyObject* offer_array(const TensorView& view);

}  // namespace dlbridge::python
