// SPDX-License-Identifier: Apache-2.0
// Pinned (page-locked) host memory from a pool with a limit (docs/reference/staging.md).
//
// Thread: any. Throws Error: no_driver, driver_too_old, no_device, after_fork, device_failed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dlbridge/export.h"
#include "dlbridge/loan.h"
#include "dlbridge/staging_backend.h"
#include "dlbridge/tensor_view.h"

namespace dlbridge::cuda {

/// Where the pool's bytes are. registered = free + owned + in_flight + quarantined + leaked.
struct PinnedStats {
  size_t registered = 0;  ///< pages locked by the pool
  size_t limit = 0;
  size_t free = 0;
  size_t owned = 0;              ///< by callers and running operations
  size_t in_flight = 0;          ///< waiting for a copy to end
  size_t quarantined = 0;        ///< dropped, but the caller's copies may still read it
  size_t leaked = 0;             ///< possibly in use by a failed device: never reused
  uint64_t hits = 0;             ///< blocks served from free memory
  uint64_t misses = 0;           ///< blocks that needed new memory
  uint64_t grows = 0;            ///< segments registered
  uint64_t refused = 0;          ///< blocks that the limit or the driver did not allow
  uint64_t register_failed = 0;  ///< registrations that the driver refused: each lowered the limit

  size_t largest = 0;  ///< the largest block that is free or that the limit allows

  /// Returns true if there is room for a block of `bytes` without waiting.
  bool has_room_for(size_t bytes) const noexcept { return bytes <= largest; }
};

/// Fresh pinned memory with shape and dtype of `like`, dense in the same order of dimensions. Not
/// initialised. Throws also Error (out_of_memory) beyond the limit.
[[nodiscard]] DLBRIDGE_API Loan pinned_empty(const TensorView& like);

/// Returns the statistics, after freeing the blocks that wait for nothing.
DLBRIDGE_API PinnedStats pinned_stats();

/// Registers `bytes` more, in pieces of at most 1 GiB, each usable as soon as it is registered.
/// They stay registered until trim_pinned() or set_pinned_limit(). Registering takes long and may
/// wait for running kernels: call it before the work that must not wait, or on another thread.
/// Throws also Error (out_of_memory) if the limit does not allow all of it, or if CUDA refuses;
/// what was registered before the refusal stays.
DLBRIDGE_API void reserve_pinned(size_t bytes);

/// Registers at most `bytes` from now on; unregisters free memory above that at once. The default
/// is an eighth of the memory that the machine or the control group allows, divided by the local
/// ranks of the job, and at most 16 GiB.
DLBRIDGE_API void set_pinned_limit(size_t bytes);

/// Unregisters free memory until at most `keep_bytes` are registered. Returns the bytes freed.
DLBRIDGE_API size_t trim_pinned(size_t keep_bytes = 0);

/// Records that work enqueued on `stream` uses the pinned memory at `address`: the pool does not
/// reuse it before that work has ended. Needed only for copies that the caller enqueues on a
/// non-blocking stream. Returns false if the pool holds no such memory.
DLBRIDGE_API bool record_stream(const void* address, Stream stream);

/// Returns true if all bytes of a host view are page-locked, by any library. Throws also Error
/// (invalid_device) if its address is device memory.
DLBRIDGE_API bool is_page_locked(const TensorView& view);

/// Returns the device that the page-locked memory at `address` was registered with, by any library;
/// -1 if no device knows it.
DLBRIDGE_API int32_t device_of_pinned(const void* address);

}  // namespace dlbridge::cuda
