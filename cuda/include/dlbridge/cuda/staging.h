// SPDX-License-Identifier: Apache-2.0
// Staging: copies tensors between host and CUDA devices, ordered by streams and events, through
// pooled pinned memory, without a full-size temporary on the device.
//
// Streams are named as in device.h.
// Thread: any. No function calls Python or needs the GIL; deleters run on the thread that finishes
// the work. A synchronous call cannot be interrupted: to interrupt a wait, start the asynchronous
// call and wait for its Future in slices. All throw Error:
// no_driver, driver_too_old, no_device, after_fork, stream_invalid, stream_capturing (before
// anything was enqueued; the capture stays valid), invalid_device (the address is not on the view's
// device), unsupported_device, invalid_argument (a batch whose sizes or directions differ),
// packed_subbyte, device_failed, out_of_memory, and what require_copyable throws; and
// std::bad_alloc without ordinary memory. A call that throws leaves its arguments to the caller and
// nothing running.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dlbridge/cuda/device.h"
#include "dlbridge/cuda/future.h"
#include "dlbridge/export.h"
#include "dlbridge/loan.h"
#include "dlbridge/staging_backend.h"
#include "dlbridge/tensor_view.h"

namespace dlbridge::cuda {

struct StageOptions {
  /// To host: the copy runs on the producer's stream, so that its later writes to the source do not
  /// reach the result. False: the copy runs beside the stream's later work; the source must not be
  /// written until the copy is done.
  bool snapshot = true;
  /// To device, asynchronous: returns before a pageable source was read. Until the Future is done
  /// the source must not be written and the target not used on any stream.
  bool borrow = false;
  /// stage_to_host: the results are row-major. Otherwise they keep the sources' order
  /// of dimensions, which avoids a transposition.
  bool row_major = false;
  /// Asynchronous: the calling thread polls for the end this many seconds before it returns. A copy
  /// of up to 64 KiB then runs on the caller's stream, also without a snapshot.
  double spin_seconds = 0;
};

/// Describes how a staging of `source` to `target` would copy: "pack kernel", "2D copy", "pooled
/// pinned memory" and so on. Copies and allocates nothing. Throws Error (no_driver,
/// driver_too_old, no_device, after_fork).
DLBRIDGE_API std::vector<std::string> staging_strategy(const TensorView& source, DLDevice target);

/// Copies device tensors of one device into fresh host memory and returns when the host may read
/// it. The memory is one pinned block of the pool, above its limit pageable; each result is dense,
/// writable, aligned to 64 bytes and marked IS_COPIED. Stream: reads the sources after the work
/// that `producer` has enqueued.
[[nodiscard]] DLBRIDGE_API std::vector<Loan> stage_to_host(std::span<const TensorView> sources,
                                                           Stream producer,
                                                           const StageOptions& options = {});
[[nodiscard]] inline Loan stage_to_host(const TensorView& source, Stream producer,
                                        const StageOptions& options = {}) {
  return std::move(stage_to_host(std::span(&source, 1), producer, options).front());
}

/// Starts stage_to_host. Owns: holds the sources (which must own their memory or outlive the work)
/// until the copy is done; if the call throws, they stay the caller's. Dropping the Future never
/// waits.
[[nodiscard]] DLBRIDGE_API Future stage_to_host_async(std::span<Loan> sources, Stream producer,
                                                      const StageOptions& options = {});
[[nodiscard]] inline Future stage_to_host_async(Loan&& source, Stream producer,
                                                const StageOptions& options = {}) {
  return stage_to_host_async(std::span(&source, 1), producer, options);
}

/// Copies each source into the target of the same number: memory of the same shape and dtype in any
/// layout. One side is on one device, the other on the host or on the same device, alike for all.
/// Only the two of a pair are checked for overlap. Stream: reads and writes after the work that
/// `stream` has enqueued, whose later work sees the elements. To the host it returns when the host
/// may read them, from the host when the sources have been read, on one device at once: until the
/// stream has made the copy the source must neither be freed nor written on another one. With
/// kNoSync it returns when the elements have arrived.
DLBRIDGE_API void stage(std::span<const TensorView> sources, std::span<const TensorView> targets,
                        Stream stream);
inline void stage(const TensorView& source, const TensorView& target, Stream stream) {
  stage(std::span(&source, 1), std::span(&target, 1), stream);
}

/// Starts stage(). Owns: holds both sides until done; if the call throws, they stay the caller's. A
/// target on the host must not be used until done: another thread writes a pageable one at the end,
/// from a pinned block; if the pool's limit does not allow that block, the call may wait for the
/// copy. A pinned source must not be written until done; a pageable one has been read on return,
/// unless options.borrow is set.
[[nodiscard]] DLBRIDGE_API Future stage_async(std::span<Loan> sources, std::span<Loan> targets,
                                              Stream stream, const StageOptions& options = {});
[[nodiscard]] inline Future stage_async(Loan&& source, Loan&& target, Stream stream,
                                        const StageOptions& options = {}) {
  return stage_async(std::span(&source, 1), std::span(&target, 1), stream, options);
}

/// Registers this module with core, so that plans use it (find_staging). Idempotent.
DLBRIDGE_API void register_cuda_staging();

}  // namespace dlbridge::cuda
