// Staging: moves tensors between host and CUDA devices where a call names it, ordered by streams
// and events, through pinned memory of dlbridge's own, without a full-size temporary on the device.
//
// Streams are named as in device.h.
//
// Every function may be called from any thread. None calls Python or needs the GIL; an Deleter is
// given back on whichever thread finishes the work. A synchronous call cannot be interrupted: who
// needs that starts the asynchronous one and waits for its Future in slices. All throw Error:
// no_driver, driver_too_old, no_device, after_fork, stream_invalid, stream_capturing (before
// anything was enqueued; the capture stays valid), invalid_device (the address is not on the view's
// device), device_failed, out_of_memory, and what require_copyable throws. An operation that throws
// has taken nothing over and left nothing running.
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
  /// To host: the producer's stream waits for the copy, so that what it does next with the source
  /// does not reach the result. False keeps the overlap: nobody may write the source until done.
  bool snapshot = true;
  /// To device, asynchronous: returns before a pageable source was read. The source may not be
  /// written, nor the target used on any stream, until the Future is done.
  bool borrow = false;
  /// To host, without `out`: the result is row-major. Otherwise it keeps the source's order of
  /// dimensions, which is often a plain copy where this is a transposition.
  bool row_major = false;
  /// Asynchronous: the calling thread watches for the end this many seconds before it returns, and
  /// what ended by then is done at once. Copies so small that they would wait longer for a thread
  /// than for the bus then take the producer's or consumer's own stream, as in a synchronous call.
  double spin_seconds = 0;
};

/// The steps that a staging of `source` to `target` would take, in words: "pack kernel", "2D
/// copy", "pooled pinned memory" and the like. Nothing is moved or made. Throws Error (no_driver,
/// driver_too_old, no_device, after_fork).
DLBRIDGE_API std::vector<std::string> staging_strategy(const TensorView& source, DLDevice target);

/// Copies a device tensor into fresh host memory and returns when the host may read it. The memory
/// is pinned and pooled, above the pool's limit pageable; dense, writable, marked IS_COPIED.
/// Stream: reads the source behind what `producer` has enqueued.
[[nodiscard]] DLBRIDGE_API Loan stage_to_host(const TensorView& source, Stream producer,
                                              const StageOptions& options = {});

/// Copies a device tensor into `out`, host memory of the same shape and dtype, in any layout.
DLBRIDGE_API void stage_to_host(const TensorView& source, const TensorView& out, Stream producer,
                                const StageOptions& options = {});

/// Starts what stage_to_host does. Owns: `source` (which must have an owner or outlive the work) is
/// held until the copy has been seen to end; on failure it stays the caller's. Dropping the Future
/// never waits.
[[nodiscard]] DLBRIDGE_API Future stage_to_host_async(Loan&& source, Stream producer,
                                                      const StageOptions& options = {});

/// The same into `out`, which is held too and may not be touched until done. Pageable `out` is
/// written by another thread at the end, by way of a pinned block; where the pool's limit does not
/// allow that block the call copies before it returns.
[[nodiscard]] DLBRIDGE_API Future stage_to_host_async(Loan&& source, Loan&& out, Stream producer,
                                                      const StageOptions& options = {});

/// Copies host memory into `target`, device memory of the same shape and dtype, in any layout.
/// Returns once the source has been read; work enqueued on `consumer` from here on sees the data.
/// With kNoSync it returns when the data has arrived.
DLBRIDGE_API void stage_to_device(const TensorView& source, const TensorView& target,
                                  Stream consumer, const StageOptions& options = {});

/// Starts it. Owns: both are held until done; on failure they stay the caller's. A pinned source is
/// read until done and may not be written before; a pageable one has been read on return, unless
/// options.borrow.
[[nodiscard]] DLBRIDGE_API Future stage_to_device_async(Loan&& source, Loan&& target,
                                                        Stream consumer,
                                                        const StageOptions& options = {});

/// Many tensors of one device, in one operation: one pinned block holds all results, each aligned
/// to 64 bytes.
[[nodiscard]] DLBRIDGE_API std::vector<Loan> stage_to_host(std::span<const TensorView> sources,
                                                           Stream producer,
                                                           const StageOptions& options = {});
[[nodiscard]] DLBRIDGE_API Future stage_to_host_async(std::span<Loan> sources, Stream producer,
                                                      const StageOptions& options = {});
DLBRIDGE_API void stage_to_device(std::span<const TensorView> sources,
                                  std::span<const TensorView> targets, Stream consumer,
                                  const StageOptions& options = {});

/// Registers this module with core, so that plans know it (find_staging). Idempotent.
DLBRIDGE_API void register_cuda_staging();

}  // namespace dlbridge::cuda
