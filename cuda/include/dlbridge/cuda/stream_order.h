// SPDX-License-Identifier: Apache-2.0
// Order between streams of one device, for tensors that pass from one stream to another without a
// copy.
//
// Streams are named as in device.h. Thread: any. Throws Error: no_driver, driver_too_old,
// no_device, invalid_device, after_fork, device_failed, stream_invalid, stream_capturing.
#pragma once

#include <cstdint>

#include "dlbridge/cuda/future.h"
#include "dlbridge/export.h"
#include "dlbridge/staging_backend.h"

namespace dlbridge::cuda {

/// Makes later work of `later` wait for the work that `earlier` has enqueued. Does nothing if the
/// two are one stream or either is kNoSync. The host does not wait.
DLBRIDGE_API void order_streams(Stream earlier, Stream later);

/// Returns a Future without a result that is done when the work of `stream` has run. With kNoSync:
/// at once.
[[nodiscard]] DLBRIDGE_API Future when_reached(Stream stream);

/// Returns a non-blocking stream to pass to a producer as the `stream` of __dlpack__: one of three
/// that has no work, if there is one, so that a slow producer delays no other. Creates the device's
/// primary context if there is none. Owned by the module.
[[nodiscard]] DLBRIDGE_API Stream import_stream(int32_t device_id);

/// Returns the non-blocking stream for memory that is not yet used on another one. Allocations,
/// frees of unused memory and copies from the host run on it; it never waits for other work.
/// Otherwise as import_stream().
[[nodiscard]] DLBRIDGE_API Stream allocation_stream(int32_t device_id);

}  // namespace dlbridge::cuda
