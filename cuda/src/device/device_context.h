// SPDX-License-Identifier: Apache-2.0
// DeviceContext: the primary context, copy streams and events of one device, and whether it failed.
// Made in two steps, as the device is used, and kept until the engine ends. Thread: any.
#pragma once

#include <atomic>
#include <deque>
#include <mutex>
#include <optional>
#include <vector>

#include "device/copy_stream.h"
#include "runtime/event_pool.h"
#include "runtime/waiter.h"

namespace dlbridge::cuda {

class PinnedPool;

class DeviceContext {
 public:
  // A device has 8 hardware connections (CUDA_DEVICE_MAX_CONNECTIONS), which it shares with the
  // caller's streams; streams beyond delay each other. Here there are at most 8: the copy streams,
  // a kernel stream for each, the imports and the allocation stream.
  static constexpr size_t kCopyStreams = 2;
  static constexpr size_t kImports = 3;
  static constexpr size_t kWaiters = 8;

  /// Calls no CUDA. Informs `pool` when the device fails.
  DeviceContext(const CudaApi& api, int device, PinnedPool& pool)
      : api_(api), index_(device), pool_(pool), events_(std::in_place, api) {}
  DeviceContext(const DeviceContext&) = delete;
  DeviceContext& operator=(const DeviceContext&) = delete;
  /// Requires: stopped, all events back.
  ~DeviceContext();

  /// Returns true if the device has a primary context, made by this module or another library, and
  /// retains it. Makes no streams. Throws Error (device_failed).
  bool has_context();
  /// Retains the primary context, which that creates if there is none, and makes the streams, all
  /// but those of kernels, unless that was done: a creation may wait for running work, so it must
  /// not come with a copy. Throws Error (device_failed).
  void start();
  bool started() const noexcept { return started_.load(std::memory_order_acquire); }
  /// Returns false if the driver compiles no kernels for the device: it copies, but packs and
  /// gathers nothing. Requires: started.
  bool has_kernels() const noexcept { return work_->has_kernels; }

  const CudaApi& api() const noexcept { return api_; }
  int index() const noexcept { return index_; }
  /// The primary context; null unless has_context() or started.
  CUcontext context() const noexcept { return context_.load(std::memory_order_acquire); }

  /// Returns a waiter for work after `producer` (a stream's number or handle): the one that already
  /// serves it, else the least busy. Requires: started.
  WaiterUse waiter_for(void* producer);
  /// Returns the copy stream of the operations of `waiter`, so that those of one producer keep
  /// their order. Requires: started.
  CopyStream& copy_stream_of(const Waiter& waiter) noexcept {
    return work_->copy_streams[waiter.index % kCopyStreams];
  }

  /// Returns the next stream to pass to a producer, skipping those that are being captured.
  /// Requires: started; the context is current. Throws Error (stream_capturing if all are
  /// captured).
  CUstream import_stream();

  /// Returns the stream on which memory is allocated and freed. It waits for no other stream.
  /// Requires: started.
  CUstream allocation_stream() const noexcept { return work_->allocations.get(); }
  /// The thread that frees memory when the streams that used it have run.
  Waiter& frees() noexcept { return *work_->frees; }

  /// Makes later work of `later`, if it is another stream, wait for the work that `earlier` has
  /// enqueued. Requires: the context is current. Throws Error (device_failed).
  void order(CUstream earlier, CUstream later);

  /// Requires: has_context() or started.
  EventPool& events() noexcept { return *events_; }

  /// Waits for the operations and ends the threads. Requires: no operation is begun meanwhile.
  void stop() noexcept;
  /// Whether no operation is in flight.
  bool idle() noexcept;

  /// Throws Error (device_failed) if the device has failed permanently. Requires: has_context() or
  /// started.
  void require_alive();
  bool alive() const noexcept { return cause_.load() == CUDA_SUCCESS; }
  /// Marks the device as failed: no further call is made on it, and memory that its work may use is
  /// leaked.
  void mark_dead(CUresult cause) noexcept;
  /// Returns true, and marks the device as failed, if it does not recover from `error` or its
  /// context was destroyed. The answer of a call about a stream of another library is not enough:
  /// its handle may be stale.
  bool fails_with(CUresult error) noexcept;

 private:
  // What start() makes.
  struct Work {
    Work(const CudaApi& api, CUcontext context);
    std::deque<Waiter> waiters;
    std::optional<Waiter> frees;
    std::deque<CopyStream> copy_streams;
    OwnedStream allocations;
    std::vector<OwnedStream> imports;
    bool has_kernels = true;
  };

  void retain();
  bool context_lives() const noexcept;

  const CudaApi& api_;
  int index_;
  PinnedPool& pool_;
  std::atomic<CUcontext> context_{nullptr};
  unsigned long long context_id_ = 0;  // 0: not known
  std::atomic<CUresult> cause_{CUDA_SUCCESS};
  std::optional<EventPool> events_;
  std::mutex mutex_;
  std::atomic<bool> started_{false};
  std::optional<Work> work_;
  size_t next_import_ = 0;
};

}  // namespace dlbridge::cuda
