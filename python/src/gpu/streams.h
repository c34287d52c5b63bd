// Streams in Python's hands: what a stream= argument means, behind which stream a source's elements
// are, and the order between streams that a shared tensor passes.
//
// Numbers are DLPack's: 1 legacy, 2 per-thread, -1 none, else a handle. All need the GIL.
#pragma once

#include <Python.h>

#include <optional>

#include "bridge/device_module.h"
#include "sources/source.h"

namespace dlbridge::python {

/// None -> nothing; an integer, or what frameworks have for streams: an object with
/// `__cuda_stream__`, `cuda_stream` (torch), `ptr` (CuPy) or `handle` (numba). 0 is the legacy
/// stream where an object says so. Throws Error (stream_invalid), or python_exception with
/// TypeError set.
std::optional<intptr_t> parse_stream(PyObject* stream);

/// The stream behind which the elements of a source on a device are. Throws Error.
intptr_t stream_of(const Source& source);

/// The consumer `target` may use a shared source on the stream it uses now. Returns that stream.
/// Nothing is done for host memory, or where there is no GPU to order. Throws Error.
intptr_t order_for(const Source& source, const Adapter& target);

/// The argument `stream` of __dlpack__: orders it behind `own`, behind which the memory's elements
/// are, and keeps the memory from being used again before the stream is through with it. `owner` is
/// the memory's. Throws Error.
void order_export(PyObject* stream, const TensorView& view, intptr_t own, const Loan& loan);

}  // namespace dlbridge::python
