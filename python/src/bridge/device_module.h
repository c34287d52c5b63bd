// SPDX-License-Identifier: Apache-2.0
// DeviceModule: what the extension module of a device (_cuda) puts into the capsule that _core
// takes. Plain data and function pointers, so that _core links no device's module.
//
// Every function is noexcept. Those that can fail return null on success, or an Error that the
// caller owns; after an Error nothing was consumed. Streams are numbered as DLPack does: 1 legacy,
// 2 per-thread, -1 none, else a handle.
//
// No function needs the GIL. Those that may call CUDA release it for their duration, and so do the
// deleters of the Loans that they return: a thread of the driver's may hold a lock of CUDA's while
// it waits for the GIL (https://github.com/pytorch/pytorch/issues/132520,
// https://github.com/rapidsai/rmm/issues/2028).
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "bridge/adapter.h"
#include "dlbridge/python_object/gil.h"
#include "dlbridge/staging_backend.h"

namespace dlbridge::python {

inline constexpr const char* kDeviceModuleCapsule = "dlbridge.device_module";

/// A staging under way, as the module has it.
struct PendingStaging;

/// How to stage.
struct StagingOptions {
  bool snapshot = true;     ///< to host: the producer's stream waits for the copy
  bool borrow = false;      ///< to device: return before a pageable source was read
  double spin_seconds = 0;  ///< how long to poll for the end before it returns
};

/// Where the pinned pool's bytes are, and what was asked of it (docs/reference/staging.md).
struct PoolStatistics {
  uint64_t registered, limit, free, owned, in_flight, quarantined, leaked;
  uint64_t hits, misses, grows, refused, register_failed;
};

struct DeviceModule {
  uint32_t struct_size = sizeof(DeviceModule);
  /// Address of neutral_traits(): both modules use the same libdlbridge.
  const void* core = &neutral_traits();

  /// Whether something was staged by this process: then something can be. Does not call CUDA.
  bool (*in_use)() noexcept = nullptr;
  /// An Error that says why nothing can be staged on this machine; null where it can.
  Error* (*unavailable)() noexcept = nullptr;
  /// One line about runtime, driver and devices. Does not start CUDA.
  Error* (*describe)(std::string* out) noexcept = nullptr;

  // ---- Staging

  /// Starts a staging of `count` sources on one device to fresh host memory. Owns: the sources.
  Error* (*start_to_host)(Loan* sources, size_t count, int32_t device, intptr_t producer,
                          const StagingOptions* options, PendingStaging** out) noexcept = nullptr;
  /// Into existing memory: to the host, to a device, or on one. Owns: both. Waits until a pageable
  /// source has been read, and where a pageable target is large.
  Error* (*start)(Loan* source, Loan* target, intptr_t stream, const StagingOptions* options,
                  PendingStaging** out) noexcept = nullptr;
  /// The same without a PendingStaging: returns when the host may read the target, or with the copy
  /// in the order of `stream`. Borrows both.
  Error* (*copy)(const TensorView* source, const TensorView* target,
                 intptr_t stream) noexcept = nullptr;
  /// Whether fresh host memory of so many bytes would be pinned.
  bool (*fits_pool)(int64_t bytes) noexcept = nullptr;
  /// Whether all of a host view is page-locked.
  bool (*is_pinned)(const TensorView* view) noexcept = nullptr;
  /// The strategy of a staging in words.
  Error* (*strategy)(const TensorView* source, DLDevice target,
                     std::vector<std::string>* out) noexcept = nullptr;

  // ---- What is under way. done, never_completes, size and fd do not call CUDA.

  bool (*done)(const PendingStaging* pending) noexcept = nullptr;
  /// Whether it will never be done in this process, a fork's child.
  bool (*never_completes)(const PendingStaging* pending) noexcept = nullptr;
  size_t (*size)(const PendingStaging* pending) noexcept = nullptr;
  /// A share in the i-th result. Waits where it is not done.
  Error* (*result)(const PendingStaging* pending, size_t index, Loan* out) noexcept = nullptr;
  /// A file descriptor that becomes readable when it is done; the staging's own.
  Error* (*fd)(const PendingStaging* pending, int* out) noexcept = nullptr;
  /// Neither waits nor cancels.
  void (*drop)(PendingStaging* pending) noexcept = nullptr;

  // ---- Streams

  /// What is enqueued on `later` from here on runs after what `earlier` has enqueued.
  Error* (*order)(int32_t device, intptr_t earlier, intptr_t later) noexcept = nullptr;
  /// Done when what the stream has enqueued has run.
  Error* (*reached)(int32_t device, intptr_t stream, PendingStaging** out) noexcept = nullptr;
  /// A stream that a producer can make wait for its work.
  Error* (*import_stream)(int32_t device, intptr_t* out) noexcept = nullptr;
  /// The stream in whose order fresh device memory of dlbridge is used first.
  Error* (*allocation_stream)(int32_t device, intptr_t* out) noexcept = nullptr;

  // ---- Memory

  /// Fresh memory on `device`, usable in the order of `stream`.
  Error* (*device_empty)(const TensorView* like, DLDataType dtype, int32_t device, intptr_t stream,
                         Loan* out) noexcept = nullptr;
  /// Frees the memory of `deleter` after the work of `stream`. Returns true if it is dlbridge's.
  /// Does not call CUDA.
  bool (*record_deleter)(const Deleter* deleter, int32_t device,
                         intptr_t stream) noexcept = nullptr;
  /// `stream` uses the pinned memory at `address`. Writes into `held` whether it is dlbridge's.
  Error* (*record_pinned)(const void* address, int32_t device, intptr_t stream,
                          bool* held) noexcept = nullptr;
  Error* (*pinned_empty)(const TensorView* like, Loan* out) noexcept = nullptr;
  Error* (*pool_statistics)(PoolStatistics* out) noexcept = nullptr;
  Error* (*set_pool_limit)(size_t bytes) noexcept = nullptr;
  Error* (*reserve_pinned)(size_t bytes) noexcept = nullptr;
  /// Writes into `freed` how many bytes were unregistered.
  Error* (*trim_pinned)(size_t keep_bytes, size_t* freed) noexcept = nullptr;
  /// The device whose memory `address` is in. Where CUDA does not know it: an Error.
  Error* (*device_of_pointer)(const void* address, int32_t* out) noexcept = nullptr;
  /// The device that page-locked memory was registered with; -1 where none knows it.
  Error* (*device_of_pinned)(const void* address, int32_t* out) noexcept = nullptr;
  /// Returns true if the host may use managed memory of this device.
  bool (*shares_managed)(int32_t device) noexcept = nullptr;
};

/// guarded() without the GIL.
template <typename Body>
Error* guarded_without_gil(Body&& body) noexcept {
  return without_gil([&] { return guarded(body); });
}

inline void release_without_gil(void* context) noexcept {
  const std::unique_ptr<Deleter> deleter(static_cast<Deleter*>(context));
  without_gil([&] { deleter->release(deleter->context); });
}

/// The deleter of `loan`, which may call CUDA, is called without the GIL from here on; where there
/// is no memory left, as before. Where there was no `original`, it is what the deleter was.
inline void call_deleter_without_gil(Loan& loan) noexcept {
  if (!loan.owns_memory()) return;
  if (!loan.original) loan.original = loan.deleter();
  if (auto* inner = new (std::nothrow) Deleter(loan.deleter())) {
    static_cast<void>(loan.release_deleter());
    loan.attach({inner, release_without_gil});
  }
}

/// The module, loaded now if need be; null where there is none in this build, or it cannot be
/// loaded. No exception is set. Does not call CUDA. Needs the GIL.
const DeviceModule* device_module() noexcept;

/// The same where something can be staged on this machine.
const DeviceModule* usable_device_module() noexcept;

/// The reason why nothing can be staged on this machine; empty where something can. Throws Error
/// where a device has failed.
ReasonSet unusable_reasons();

/// The module, or throws Error (no_staging where this build has none, no_driver, driver_too_old,
/// no_device). Needs the GIL.
const DeviceModule& require_device_module();

/// Registers the device module of a capsule. Throws where it is of another build.
void register_device_module(PyObject* capsule);

}  // namespace dlbridge::python
