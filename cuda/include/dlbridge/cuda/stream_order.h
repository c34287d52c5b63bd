// Order between streams of one device, for who passes tensors from one stream's owner to another's
// without copying.
//
// Streams are named as in device.h. Thread: any. Throws Error: no_driver, driver_too_old,
// no_device, invalid_device, after_fork, device_failed, stream_invalid, stream_capturing.
#pragma once

#include <cstdint>

#include "dlbridge/cuda/future.h"
#include "dlbridge/export.h"
#include "dlbridge/staging_backend.h"

namespace dlbridge::cuda {

/// What is enqueued on `later` from here on runs after what `earlier` has enqueued. Nothing is to
/// be done where the two are one, or either is kNoSync. Never waits.
DLBRIDGE_API void order_streams(Stream earlier, Stream later);

/// Done when what `stream` has enqueued has run. Brings no tensor. With kNoSync: at once.
[[nodiscard]] DLBRIDGE_API Future when_reached(Stream stream);

/// A non-blocking stream that a producer may be asked to put its work in front of (the `stream` of
/// __dlpack__). One of sixteen in turn, so that a slow producer delays few others. Makes the
/// device's primary context where nobody has. Belongs to the module.
[[nodiscard]] DLBRIDGE_API Stream import_stream(int32_t device_id);

/// The non-blocking stream in whose order memory of dlbridge's own is first used. Only copies from
/// the host stand on it, never a wait for others' work. The rest as import_stream().
[[nodiscard]] DLBRIDGE_API Stream allocation_stream(int32_t device_id);

}  // namespace dlbridge::cuda
