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
// device), device_failed, out_of_memory, and what require_copyable throws. A call that throws
// leaves its arguments to the caller and nothing running.
#pragma once

#include <span>
#include <string>
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
  /// To host, without `out`: the result is row-major. Otherwise it keeps the source's order of
  /// dimensions, which avoids a transposition.
  bool row_major = false;
  /// Asynchronous: the calling thread polls for the end this many seconds before it returns.
  double spin_seconds = 0;
};

/// Describes how a staging of `source` to `target` would copy: "pack kernel", "2D copy", "pooled
/// pinned memory" and so on. Copies and allocates nothing. Throws Error (no_driver,
/// driver_too_old, no_device, after_fork).
DLBRIDGE_API std::vector<std::string> staging_strategy(const TensorView& source, DLDevice target);

/// Copies a device tensor into fresh host memory and returns when the host may read it. The memory
/// is pinned and pooled, above the pool's limit pageable; dense, writable, marked IS_COPIED.
/// Stream: reads the source after the work that `producer` has enqueued.
[[nodiscard]] DLBRIDGE_API Loan stage_to_host(const TensorView& source, Stream producer,
                                              const StageOptions& options = {});

/// Copies a device tensor into `out`, host memory of the same shape and dtype, in any layout.
DLBRIDGE_API void stage_to_host(const TensorView& source, const TensorView& out, Stream producer,
                                const StageOptions& options = {});

/// Starts stage_to_host. Owns: holds `source` (which must own its memory or outlive the work) until
/// the copy is done; if the call throws, it stays the caller's. Dropping the Future never waits.
[[nodiscard]] DLBRIDGE_API Future stage_to_host_async(Loan&& source, Stream producer,
                                                      const StageOptions& options = {});

/// The same into `out`, which is held too and must not be used until done. Another thread writes a
/// pageable `out` at the end, from a pinned block; if the pool's limit does not allow that block,
/// the call copies before it returns.
[[nodiscard]] DLBRIDGE_API Future stage_to_host_async(Loan&& source, Loan&& out, Stream producer,
                                                      const StageOptions& options = {});

/// Copies host memory into `target`, device memory of the same shape and dtype, in any layout.
/// Returns once the source has been read; later work on `consumer` sees the data.
/// With kNoSync it returns when the data has arrived.
DLBRIDGE_API void stage_to_device(const TensorView& source, const TensorView& target,
                                  Stream consumer, const StageOptions& options = {});

/// Starts stage_to_device. Owns: holds both until done; if the call throws, they stay the caller's.
/// A pinned source must not be written until done; a pageable one has been read on return, unless
/// options.borrow is set.
[[nodiscard]] DLBRIDGE_API Future stage_to_device_async(Loan&& source, Loan&& target,
                                                        Stream consumer,
                                                        const StageOptions& options = {});

/// The same for many tensors of one device, in one operation: one pinned block holds all results,
/// each aligned to 64 bytes.
[[nodiscard]] DLBRIDGE_API std::vector<Loan> stage_to_host(std::span<const TensorView> sources,
                                                           Stream producer,
                                                           const StageOptions& options = {});
[[nodiscard]] DLBRIDGE_API Future stage_to_host_async(std::span<Loan> sources, Stream producer,
                                                      const StageOptions& options = {});
DLBRIDGE_API void stage_to_device(std::span<const TensorView> sources,
                                  std::span<const TensorView> targets, Stream consumer,
                                  const StageOptions& options = {});

/// Registers this module with core, so that plans use it (find_staging). Idempotent.
DLBRIDGE_API void register_cuda_staging();

}  // namespace dlbridge::cuda
