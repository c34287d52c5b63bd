// SPDX-License-Identifier: Apache-2.0
// The CUDA devices of this machine, names of their streams, and waiting for all copies to end.
//
// Streams are named as DLPack names them: `handle` 1 is the legacy default stream, 2 the per-thread
// one of the calling thread, kNoSync says that the caller orders the work itself, anything else is
// a cudaStream_t of the tensor's device; 0 is refused, since it means either of two streams. All
// are streams of the device's primary context, which the runtime uses: those of contexts made with
// cuCtxCreate or of green contexts are refused.
//
// Captures: a staging cannot be captured. A global-mode capture that another thread begins at the
// moment in which this module records an event on the legacy stream is invalidated by it. A graph
// that reads or writes a result must not outlive it: the pool reuses the memory.
//
// Thread: any.
#pragma once

#include <cstdint>
#include <string>

#include "dlbridge/error.h"
#include "dlbridge/export.h"
#include "dlbridge/staging_backend.h"

namespace dlbridge::cuda {

using dlbridge::kLegacyStream;
using dlbridge::kNoSync;
using dlbridge::kPerThreadStream;

/// A stream of CUDA device `device_id`, by DLPack's number or a cudaStream_t.
inline Stream stream_of(int32_t device_id, intptr_t handle) noexcept {
  return {{kDLCUDA, device_id}, reinterpret_cast<void*>(handle)};
}
inline Stream stream_of(int32_t device_id, void* cuda_stream) noexcept {
  return {{kDLCUDA, device_id}, cuda_stream};
}

/// Whether this process can use a GPU, and why not.
struct Availability {
  bool usable = false;
  ErrorCode reason{};       ///< no_driver, driver_too_old or no_device where not usable
  std::string message;      ///< says what was found and what is needed; empty where usable
  int driver_version = 0;   ///< as CUDA counts: 13000 is 13.0; 0 without a driver
  int runtime_version = 0;  ///< the least that a driver must support
  int device_count = 0;
};

/// A CUDA version as text: 13000 is "13.0".
inline std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// Never throws for want of a driver, and creates no context. Throws Error (after_fork),
/// std::bad_alloc.
DLBRIDGE_API Availability availability();

/// Starts CUDA in this process, unless that was done: later questions about devices start nothing.
/// Throws Error (no_driver, driver_too_old, no_device, after_fork).
DLBRIDGE_API void start();

/// Returns true if this process uses CUDA through this module. Calls nothing of CUDA.
DLBRIDGE_API bool in_use() noexcept;

/// What is known without starting CUDA, after which the child of a fork could not use it: the
/// versions, and whether there is a driver that is new enough. The devices are not counted before
/// this process has used one. Throws as availability().
DLBRIDGE_API Availability driver_presence();

/// Waits until no copy is in flight, at most `seconds`. Returns true if none is.
DLBRIDGE_API bool drain(double seconds) noexcept;

}  // namespace dlbridge::cuda
