// SPDX-License-Identifier: Apache-2.0
// Stream-ordered device allocations, for callers without a framework allocator.
//
// Thread: any. Throws Error: no_driver, driver_too_old, no_device, invalid_device, after_fork,
// device_failed, stream_invalid, stream_capturing.
#pragma once

#include "dlbridge/export.h"
#include "dlbridge/loan.h"
#include "dlbridge/staging_backend.h"
#include "dlbridge/tensor_view.h"

namespace dlbridge::cuda {

/// Fresh memory on the device of `stream`, with shape and dtype of `like`, dense in the same order
/// of dimensions (row-major for packed sub-byte types). Not initialised. Creates the
/// device's primary context if there is none. Stream: usable in the order of `stream`; with
/// kNoSync, at once. Owns: the deleter may run on any thread and does not wait, but calls CUDA, so
/// drop it without the GIL; it frees the memory
/// after the work of `stream` and of every stream named with record_device_stream(). Throws also
/// Error (out_of_memory).
[[nodiscard]] DLBRIDGE_API Loan device_empty(const TensorView& like, Stream stream);

/// Records that `stream` uses the memory of `deleter`: the deleter frees it after the work that the
/// stream has by then. The stream must outlive the memory, as with torch's record_stream: only its
/// handle is kept, and CUDA reuses the handles of destroyed streams. Returns false, and does
/// nothing, if the deleter is not one of device_empty(). Throws std::bad_alloc.
DLBRIDGE_API bool record_device_stream(const Deleter& deleter, Stream stream);

/// The device whose memory `address` is in, managed memory included. Throws also Error
/// (invalid_device) if it is not device memory.
DLBRIDGE_API int32_t device_of_address(const void* address);

/// Returns true if host and device may use managed memory of this device at the same time
/// (cudaDevAttrConcurrentManagedAccess).
DLBRIDGE_API bool shares_managed_memory(int32_t device_id);

}  // namespace dlbridge::cuda
