// SPDX-License-Identifier: Apache-2.0
// Objects with the buffer protocol (PEP 3118) as sources: bytes, bytearray, memoryview,
// array.array, mmap, ctypes arrays. tensor/buffer.cpp offers ours.
#pragma once

#include <Python.h>

#include "bridge/adapter.h"
#include "support/reference.h"

namespace dlbridge::python {

/// A memoryview of `x`, which holds its buffer; null where `x` has no buffer or is a scalar of
/// NumPy. Throws what the exporter raises.
Reference buffer_of(PyObject* x);

/// The adapter whose objects are memoryviews. Describes host memory, read-only where the buffer is;
/// throws Error (unsupported_dtype, byte_order and others of read_descriptor) for formats that
/// DLPack does not have.
const Adapter& buffer_adapter() noexcept;

}  // namespace dlbridge::python
