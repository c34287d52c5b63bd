// SPDX-License-Identifier: Apache-2.0
// Streams: what a stream= argument means, and the order between the streams of a producer and a
// consumer that share memory.
//
// Numbers are DLPack's: 1 legacy, 2 per-thread, -1 none, else a handle. All need the GIL and throw
// Error.
#pragma once

#include <Python.h>

#include <optional>

#include "bridge/device_module.h"
#include "sources/source.h"

namespace dlbridge::python {

/// None: nothing. Else an integer, or a framework's stream: an object with `__cuda_stream__`,
/// `cuda_stream` (torch), `ptr` (CuPy) or `handle` (numba), where 0 is the legacy stream. Throws
/// Error (stream_invalid, unsupported_type).
std::optional<intptr_t> parse_stream(PyObject* stream);

/// Makes the stream that `target` uses now wait for the source's, and returns it; a target without
/// streams of its own uses the source's. Does nothing for host memory. Throws Error (no_driver,
/// driver_too_old, no_device, no_staging) where the target's framework could not reach the memory.
intptr_t order_for(const Source& source, const Adapter& target);

/// The argument `stream` of __dlpack__: makes it wait for `own`, after which the memory's elements
/// are valid, and keeps the memory of `loan` from being reused before the work of `stream` has run.
/// None means the legacy stream.
void order_export(PyObject* stream, const TensorView& view, intptr_t own, const Loan& loan);

}  // namespace dlbridge::python
