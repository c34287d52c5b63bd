// SPDX-License-Identifier: Apache-2.0
// The parts of a staging: the source in a form that a device can copy, the start, memory on a
// device. All need the GIL and throw Error.
#pragma once

#include <Python.h>

#include <optional>

#include "gpu/waiting.h"
#include "sources/source.h"

namespace dlbridge::python {

/// A copy of up to this size ends before a thread has slept.
inline constexpr int64_t kSmallBytes = 64 * 1024;

/// target.wrap(): a new reference.
Reference wrapped(const Adapter& target, Loan&& loan);

/// A source whose memory holds its elements as they are: `source`, or `made`, opened from a copy by
/// its framework that `holder` keeps alive.
Source& plain(Source& source, Source& made, Reference& holder);

/// Returns true if `target` holds these elements once they are in dense memory of their own.
/// Otherwise they are cast or repacked in host memory.
bool arrives_as_it_is(const TensorView& view, const Adapter& target);

/// Waits for the work that the stream holds now, checking for signals.
void wait_for_stream(const DeviceModule& module, int32_t device, intptr_t stream);

/// To fresh host memory; consumes the source's loan, which it makes an owning one.
Staging start_to_host(const DeviceModule& module, Source& source, intptr_t producer,
                      const StagingOptions& options);

/// Into existing memory; consumes both loans.
Staging start(const DeviceModule& module, Loan&& source, Loan&& target, intptr_t stream,
              const StagingOptions& options);

/// Fresh memory on a device: an object of a framework, an owning loan of its memory, and the stream
/// in whose order it may be used.
struct DeviceTarget {
  Reference object;
  Loan memory;
  intptr_t stream;
};

/// For `stream`; null: for the stream that the framework uses.
DeviceTarget allocate_on_device(const DeviceModule& module, const Adapter& target,
                                const TensorView& like, int32_t device,
                                std::optional<intptr_t> stream);

}  // namespace dlbridge::python
