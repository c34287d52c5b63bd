// SPDX-License-Identifier: Apache-2.0
// DeviceContext: the primary context, copy streams and events of one device, and whether it failed.
// Created on first use of the device, kept until the engine ends. Thread: any.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "device/copy_stream.h"
#include "runtime/event_pool.h"

namespace dlbridge::cuda {

class PinnedPool;

class DeviceContext {
 public:
  static constexpr size_t kCopyStreams = 8;
  static constexpr size_t kImports = 16;

  /// Retains the primary context of `device`. Throws Error (device_failed). Informs `pool` when the
  /// device fails.
  DeviceContext(const CudaApi& api, int device, PinnedPool& pool);
  DeviceContext(const DeviceContext&) = delete;
  DeviceContext& operator=(const DeviceContext&) = delete;
  /// Requires: stopped, all events back.
  ~DeviceContext();

  const CudaApi& api() const noexcept { return api_; }
  int index() const noexcept { return index_; }
  CUcontext context() const noexcept { return context_; }

  /// Returns a copy stream for work after `producer` (a stream's number or handle): the one that
  /// already serves it, so that its copies keep their order, else an idle one, else the least busy.
  /// Requires: the context is current. Throws Error (device_failed).
  CopyStreamUse copy_stream_for(void* producer);

  /// Returns the stream on which memory is freed after the streams that used it. It does nothing
  /// else, so no other work waits. Requires: the context is current. Throws Error (device_failed).
  cudaStream_t free_stream();

  /// Returns the next stream to pass to a producer, skipping those that are being captured.
  /// Requires: the context is current. Throws Error (device_failed, stream_capturing if all are
  /// captured).
  cudaStream_t import_stream();

  /// Returns the stream on which allocated memory is first used. Requires: the context is current.
  /// Throws Error (device_failed).
  cudaStream_t allocation_stream();

  /// Makes later work of `later` wait for the work that `earlier` has enqueued. Requires: the
  /// context is current. Throws Error (device_failed).
  void order(cudaStream_t earlier, cudaStream_t later);

  /// Events for polling and for waits of other streams.
  EventPool& events() noexcept { return *events_; }
  /// Events for a thread that sleeps in cudaEventSynchronize.
  EventPool& sleeping_events() noexcept { return *sleeping_events_; }

  /// Waits for the copy streams' operations and ends their threads.
  void stop() noexcept;
  /// Whether no operation of a copy stream is in flight.
  bool idle() noexcept;

  /// Throws Error (device_failed) if the device has failed permanently.
  void require_alive() const;
  bool alive() const noexcept { return cause_.load() == cudaSuccess; }
  /// Marks the device as failed: no further call is made on it, and memory that its work may use is
  /// leaked.
  void mark_dead(cudaError_t cause) noexcept;
  /// Calls mark_dead() if a device does not recover from `error`.
  void note(cudaError_t error) noexcept;
  /// As note(); throws Error (device_failed) for such an error of `call`.
  void require_alive_after(cudaError_t error, const char* call);

 private:
  CopyStream& choose_copy_stream(void* producer);
  cudaStream_t made(cudaStream_t& stream);

  const CudaApi& api_;
  int index_;
  PinnedPool& pool_;
  CUcontext context_ = nullptr;
  std::atomic<cudaError_t> cause_{cudaSuccess};
  std::unique_ptr<EventPool> events_;
  std::unique_ptr<EventPool> sleeping_events_;
  std::mutex mutex_;
  std::array<std::unique_ptr<CopyStream>, kCopyStreams> copy_streams_;
  std::array<void*, kCopyStreams> producers_{};
  cudaStream_t free_stream_ = nullptr;
  cudaStream_t allocation_stream_ = nullptr;
  std::array<cudaStream_t, kImports> imports_{};
  size_t next_import_ = 0;
};

}  // namespace dlbridge::cuda
