// Device memory of dlbridge's own, for who asks for a tensor on a device and brings no framework
// that allocates there. From the device's stream-ordered pool.
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
/// of dimensions (row-major for packed sub-byte types). Not initialised. Makes the device's primary
/// context where nobody has. Stream: may be used in the order of `stream`; with kNoSync, at once.
/// Owns: given back in stream order, on any thread, without waiting: behind `stream` and every
/// stream that was named with record_device_stream(). Throws also Error (out_of_memory).
[[nodiscard]] DLBRIDGE_API Loan device_empty(const TensorView& like, Stream stream);

/// Says that `stream` uses the memory whose owner `owner` is: it is given back behind what that
/// stream will have enqueued by then, so the stream has to live as long. False where the owner is
/// not device_empty()'s; nothing is done then. Throws std::bad_alloc.
DLBRIDGE_API bool record_device_stream(const Deleter& deleter, Stream stream);

/// The device whose memory `address` is in, managed memory included. Throws also Error
/// (invalid_device) where CUDA does not know it as such.
DLBRIDGE_API int32_t device_of_address(const void* address);

/// Whether the host may use managed memory of this device while the device does
/// (cudaDevAttrConcurrentManagedAccess).
DLBRIDGE_API bool shares_managed_memory(int32_t device_id);

}  // namespace dlbridge::cuda
