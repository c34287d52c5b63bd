// What every staging is made of, whoever starts it: the source in the form that a device can copy,
// the start itself, memory on a device. Used by staging.cpp and stage_call.cpp alone.
//
// All need the GIL and throw Error.
#pragma once

#include <Python.h>

#include <optional>

#include "gpu/waiting.h"
#include "sources/source.h"

namespace dlbridge::python {

/// Up to here a copy is over before a thread has slept.
inline constexpr int64_t kSmallBytes = 64 * 1024;

/// source.open(x) and source.acquire(), throwing.
void open(Source& source, PyObject* x);
void acquire(Source& source);

/// target.wrap(), throwing: a new reference.
PyObject* wrapped(const Adapter& target, Loan&& loan);

/// A source whose memory holds its elements as they are: `source`, or `made` of what its framework
/// made of it, which `holder` keeps alive.
Source& plain(Source& source, Source& made, Reference& holder);

/// Whether `target` holds these elements once they are in dense memory of their own. Otherwise they
/// are cast or repacked in host memory.
bool arrives_as_it_is(const TensorView& view, const Adapter& target);

/// Waits until the stream has come to where it is now, so that what works on this thread afterwards
/// does not wait for others' work, deaf to signals.
void wait_for_stream(const DeviceModule& module, int32_t device, intptr_t stream);

/// To fresh host memory; consumes the source's loan.
Staging start_to_host(const DeviceModule& module, Source& source, intptr_t producer,
                      const StagingOptions& options);

/// Into `out`, an object of `target`'s that `memory` describes.
Staging start_to_host_into(const DeviceModule& module, Source& source, const Adapter& target,
                           PyObject* out, Loan& memory, intptr_t producer,
                           const StagingOptions& options);

/// Into device memory.
Staging start_to_device(const DeviceModule& module, Source& source, Loan&& target,
                        intptr_t consumer, const StagingOptions& options);

/// Fresh memory on a device: an object of some framework's, its memory lent, and the stream in
/// whose order it may be used.
struct DeviceTarget {
  Reference object;
  Loan memory;
  intptr_t stream;
};

/// For `stream`; where none is named, for the one that the framework uses.
DeviceTarget allocate_on_device(const DeviceModule& module, const Adapter& target,
                                const TensorView& like, int32_t device,
                                std::optional<intptr_t> stream);

}  // namespace dlbridge::python
