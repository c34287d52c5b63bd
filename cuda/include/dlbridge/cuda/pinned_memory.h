// Pinned host memory of dlbridge's own: page-locked, so that copies to and from a device run at the
// speed of the bus. Kept in a pool with a limit (docs/staging.md).
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
  size_t owned = 0;        ///< by users and running operations
  size_t in_flight = 0;    ///< waiting for a copy to end
  size_t quarantined = 0;  ///< dropped by a user, whose own copies may still read it
  size_t leaked = 0;       ///< in unknown use after a device error: never used again
  uint64_t hits = 0;       ///< blocks for which free memory stood ready
  uint64_t misses = 0;     ///< blocks for which none did
  uint64_t grows = 0;      ///< segments registered
  uint64_t refused = 0;    ///< blocks that the limit did not allow

  /// Whether the limit would allow a block of so many bytes.
  bool has_room_for(size_t bytes) const noexcept {
    const size_t in_use = registered - free;
    return in_use <= limit && bytes <= limit - in_use;
  }
};

/// Fresh pinned memory with shape and dtype of `like`, dense in the same order of dimensions. Not
/// initialised. Throws also Error (out_of_memory) beyond the limit.
[[nodiscard]] DLBRIDGE_API Loan pinned_empty(const TensorView& like);

/// Where the bytes are, after what no longer waits for anything has become free.
DLBRIDGE_API PinnedStats pinned_stats();

/// At most this many bytes are registered from here on; free memory beyond is given back at once.
DLBRIDGE_API void set_pinned_limit(size_t bytes);

/// Gives free memory back until at most `keep_bytes` are registered. Returns the bytes given back.
DLBRIDGE_API size_t trim_pinned(size_t keep_bytes = 0);

/// Says that work now enqueued on `stream` uses the pinned memory at `address`, which was got from
/// here: it is not used again before that work has ended, whenever it is dropped. Needed only for
/// copies that somebody else enqueues on a non-blocking stream. False where no such memory is held.
DLBRIDGE_API bool record_stream(const void* address, Stream stream);

/// Whether all bytes of a host view are page-locked, by whomever. Throws also Error
/// (invalid_device) where its address is device memory.
DLBRIDGE_API bool is_page_locked(const TensorView& view);

}  // namespace dlbridge::cuda
