// SPDX-License-Identifier: Apache-2.0
// The C ABI of the CUDA module: C11, and valid C++. The rules of dlbridge/c_api.h for
// statuses, ownership, structs, texts, units and threads apply. Guides: docs/c.md,
// docs/reference/staging.md.
//
// Streams are those of the device tensor's device, by DLPack's numbers or as (intptr_t) of a
// cudaStream_t. 0 is refused, since it means either of two streams.
//
// Beside the statuses named with a function: DLBRIDGE_UNAVAILABLE (no driver, one too old, no
// device), DLBRIDGE_DEVICE_FAILED (also in the child of a fork), DLBRIDGE_OUT_OF_MEMORY,
// DLBRIDGE_INVALID_ARGUMENT (a null pointer, a stream that is none or of another device, an address
// that is not on the device its descriptor names), DLBRIDGE_REFUSED (what dlb_copy refuses, a
// stream that is being captured), DLBRIDGE_INVALID_DESCRIPTOR.
#pragma once

#include "dlbridge/c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Streams that DLPack gives numbers to.
enum {
  DLBRIDGE_CUDA_LEGACY_STREAM = 1,
  DLBRIDGE_CUDA_PER_THREAD_STREAM = 2,  ///< of the calling thread
  DLBRIDGE_CUDA_NO_SYNC = -1            ///< the caller orders the work itself
};

/// Bits of dlb_cuda_options::flags.
enum {
  /// To host: the producer's stream does not wait for the copy. The source must not be written
  /// before the copy is done.
  DLBRIDGE_CUDA_NO_SNAPSHOT = 1 << 0,
  /// To device, asynchronous: returns before a pageable source was read. Until done the source may
  /// not be written, nor the target used on any stream.
  DLBRIDGE_CUDA_BORROW = 1 << 1,
  /// To host, fresh memory: row-major. Otherwise the result keeps the source's order of dimensions.
  DLBRIDGE_CUDA_ROW_MAJOR = 1 << 2
};

/// How to stage. Null wherever one is taken: no flag is set.
typedef struct dlb_cuda_options {
  size_t struct_size;  ///< in, like all of this
  uint32_t flags;      ///< DLBRIDGE_CUDA_ bits
  uint32_t reserved;   ///< zero
} dlb_cuda_options;

/// Whether this process can use a GPU, and why not.
typedef struct dlb_cuda_info {
  size_t struct_size;       ///< in
  char* message;            ///< in: room for `message_capacity` bytes, or null
  size_t message_capacity;  ///< in: bytes
  size_t message_length;    ///< bytes of the whole message; 0 where usable
  const char* reason;       ///< "no_driver", "driver_too_old", "no_device"; "" where usable; static
  int32_t usable;           ///< 1: there is a GPU to use; 0: not
  int32_t driver_version;   ///< as CUDA counts: 13000 is 13.0; 0 without a driver
  int32_t runtime_version;  ///< the least that a driver must support
  int32_t device_count;
} dlb_cuda_info;

/// Where the pinned pool's bytes are. registered = free + owned + in_flight + quarantined + leaked.
typedef struct dlb_pinned_stats {
  size_t struct_size;  ///< in
  size_t registered;   ///< pages locked by the pool
  size_t limit;
  size_t free;
  size_t owned;              ///< by callers and running operations
  size_t in_flight;          ///< waiting for a copy to end
  size_t quarantined;        ///< dropped, but the caller's copies may still read it
  size_t leaked;             ///< possibly in use by a failed device: never reused
  uint64_t hits;             ///< blocks served from free memory
  uint64_t misses;           ///< blocks that needed new memory
  uint64_t grows;            ///< segments registered
  uint64_t refused;          ///< blocks that the limit or the driver did not allow
  uint64_t register_failed;  ///< registrations that the driver refused: each lowered the limit
} dlb_pinned_stats;

/// The outcome of an asynchronous staging. Thread: any, concurrently, except dlb_future_drop.
typedef struct dlb_future dlb_future;

// ---- The machine

/// Writes whether there is a GPU to use, and if not, why. Creates no context. A missing driver is
/// an answer, not a failure. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_cuda_availability(dlb_cuda_info* info) DLBRIDGE_NOEXCEPT;

/// Registers this module with core, so that dlb_stage and dlb_plan use it. Idempotent. Owns:
/// nothing changes hands.
DLBRIDGE_API dlb_status dlb_cuda_register_staging(void) DLBRIDGE_NOEXCEPT;

/// Waits until no staging is in flight, at most `seconds`; writes into `drained` whether that was
/// reached. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_cuda_drain(double seconds, int32_t* drained) DLBRIDGE_NOEXCEPT;

// ---- Staging that is over when the call returns
//
// `count` copies in one operation, between one device and the host, or on that device. Descriptors
// are borrowed for the call; dlb_tensor_borrow shows a handle as one. A call that fails leaves
// nothing running.

/// Copies device tensors, after what `producer` has enqueued, into fresh host memory: one pinned
/// block, above the pool's limit pageable; each result dense, writable. Owns: on success results[0]
/// to results[count - 1] are each one share that the caller gives back with dlb_tensor_release. On
/// failure nothing was made, and all are null.
DLBRIDGE_API dlb_status dlb_cuda_stage_to_host(const DLManagedTensorVersioned* const* sources,
                                               size_t count, intptr_t producer,
                                               const dlb_cuda_options* options,
                                               dlb_tensor** results) DLBRIDGE_NOEXCEPT;

/// Copies sources[i] into targets[i], of the same shape and dtype in any layout, in the order of
/// `stream`, whose later work sees the elements. To the host it returns when the host may read the
/// targets, from the host when the sources have been read, on one device at once: until the stream
/// has made the copy the source must neither be freed nor written on another one. With
/// DLBRIDGE_CUDA_NO_SYNC it returns when the elements have arrived. After a failure of the device
/// the elements are undefined. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_cuda_stage(const DLManagedTensorVersioned* const* sources,
                                       const DLManagedTensorVersioned* const* targets, size_t count,
                                       intptr_t stream) DLBRIDGE_NOEXCEPT;

// ---- Staging that goes on after the call
//
// These take handles and hold a share in each until the copies are done. The caller keeps its own
// shares and may release them at once. A call that fails changes nothing.

/// Starts what dlb_cuda_stage_to_host does; result i of the future is that of sources[i]. Owns: on
/// success `*future` is the caller's, for dlb_future_drop, and the operation holds a share in every
/// source until done. On failure nothing was made.
DLBRIDGE_API dlb_status dlb_cuda_stage_to_host_async(dlb_tensor* const* sources, size_t count,
                                                     intptr_t producer,
                                                     const dlb_cuda_options* options,
                                                     dlb_future** future) DLBRIDGE_NOEXCEPT;

/// Starts what dlb_cuda_stage does; result i of the future is targets[i]. Targets on the host must
/// not be used until done. A pinned source is read until done and may not be written before; a
/// pageable one was read on return, unless DLBRIDGE_CUDA_BORROW is set. Owns: on success `*future`
/// is the caller's, for dlb_future_drop, and the operation holds a share in all until done. On
/// failure nothing was made.
DLBRIDGE_API dlb_status dlb_cuda_stage_async(dlb_tensor* const* sources, dlb_tensor* const* targets,
                                             size_t count, intptr_t stream,
                                             const dlb_cuda_options* options,
                                             dlb_future** future) DLBRIDGE_NOEXCEPT;

// ---- Futures

/// Writes into `done` whether the operation has succeeded or failed. Never waits. Owns: nothing
/// changes hands.
DLBRIDGE_API dlb_status dlb_future_done(const dlb_future* future, int32_t* done) DLBRIDGE_NOEXCEPT;

/// Waits until done, at most `seconds`; negative: for ever. Writes into `done` whether it is: that
/// the time ran out is an answer, not a failure. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_future_wait(const dlb_future* future, double seconds,
                                        int32_t* done) DLBRIDGE_NOEXCEPT;

/// Writes into `count` the number of results: one, or those of a batch. Owns:
/// nothing changes hands.
DLBRIDGE_API dlb_status dlb_future_count(const dlb_future* future, size_t* count) DLBRIDGE_NOEXCEPT;

/// Waits until done; then `*result` is a share in the tensor number `index`: the same memory on
/// every call. To device that is the target. An operation that failed answers every call with its
/// error. Owns: on success the caller gives the share back with dlb_tensor_release. On failure
/// there is no new share.
DLBRIDGE_API dlb_status dlb_future_result(const dlb_future* future, size_t index,
                                          dlb_tensor** result) DLBRIDGE_NOEXCEPT;

/// Writes into `fd` a file descriptor that becomes readable (poll, epoll) when the
/// operation is done. Owns: nothing changes hands: it belongs to the future, ends with it, and must
/// be neither closed nor read.
DLBRIDGE_API dlb_status dlb_future_fd(const dlb_future* future, int32_t* fd) DLBRIDGE_NOEXCEPT;

/// Gives the future up; null is ignored. Neither waits for the operation nor cancels it. Results
/// that were taken stay. Owns: the future is gone. It does not fail.
DLBRIDGE_API dlb_status dlb_future_drop(dlb_future* future) DLBRIDGE_NOEXCEPT;

// ---- Pinned memory

/// Fresh pinned memory of this shape (`ndim` extents) and dtype, row-major, not initialised.
/// DLBRIDGE_OUT_OF_MEMORY beyond the pool's limit. Owns: on success `*result` is one share that the
/// caller gives back with dlb_tensor_release. On failure nothing was made.
DLBRIDGE_API dlb_status dlb_cuda_pinned_empty(DLDataType dtype, int32_t ndim, const int64_t* shape,
                                              dlb_tensor** result) DLBRIDGE_NOEXCEPT;

/// Writes where the pool's bytes are. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_cuda_pinned_stats(dlb_pinned_stats* stats) DLBRIDGE_NOEXCEPT;

/// Registers `bytes` more, in pieces of at most 1 GiB, each usable at once. They stay registered
/// until dlb_cuda_trim_pinned or dlb_cuda_set_pinned_limit. DLBRIDGE_OUT_OF_MEMORY if the limit
/// does not allow all of it, or CUDA refuses; what was registered before the refusal stays. Owns:
/// nothing changes hands.
DLBRIDGE_API dlb_status dlb_cuda_reserve_pinned(size_t bytes) DLBRIDGE_NOEXCEPT;

/// Registers at most `bytes` from now on; unregisters free memory above that at once.
/// Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_cuda_set_pinned_limit(size_t bytes) DLBRIDGE_NOEXCEPT;

/// Gives free memory back until at most `keep_bytes` are registered; writes into `freed` (may be
/// null) how many bytes that were. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_cuda_trim_pinned(size_t keep_bytes, size_t* freed) DLBRIDGE_NOEXCEPT;

/// Records that work enqueued on `stream`, of CUDA device `device_id`, uses the pinned memory at
/// `address`: the pool does not reuse it before that work has ended. Writes into `held` whether
/// such memory was found. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_cuda_record_stream(const void* address, int32_t device_id,
                                               intptr_t stream, int32_t* held) DLBRIDGE_NOEXCEPT;

#ifdef __cplusplus
}  // extern "C"
#endif
