// The buffer protocol (PEP 3118) of dlbridge.Tensor: host memory, of the types that have a format.
//
// The memory lives as long as the Tensor, and every Py_buffer holds a reference to its Tensor; so
// an export needs no share of its own, only room for shape and strides.
#pragma once

#include <Python.h>

namespace dlbridge::python {

/// The slot Py_bf_getbuffer. Refuses with ExchangeError, which is a BufferError: device_not_named,
/// read_only, overlap (broadcast memory, asked for as writable), unsupported_dtype,
/// too_many_dimensions, invalid_argument (not contiguous as asked). Who asks for
/// no format gets the memory of every dtype whose elements are whole bytes, of all others who asks
/// for no shape either.
int get_buffer(PyObject* self, Py_buffer* out, int flags) noexcept;

/// The slot Py_bf_releasebuffer.
void release_buffer(PyObject* self, Py_buffer* buffer) noexcept;

}  // namespace dlbridge::python
