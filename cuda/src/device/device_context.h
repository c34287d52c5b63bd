// DeviceContext: what this module has on one device: its primary context, copy streams, events, and
// whether it is still alive.
//
// Made when memory of the device is first met, kept until the engine ends. Thread: any.
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

  /// Keeps the primary context of `device`, which somebody has made. Throws Error (device_failed).
  /// `pool` is told when the device fails.
  DeviceContext(const CudaApi& api, int device, PinnedPool& pool);
  DeviceContext(const DeviceContext&) = delete;
  DeviceContext& operator=(const DeviceContext&) = delete;
  /// Requires: stopped, all events back.
  ~DeviceContext();

  const CudaApi& api() const noexcept { return api_; }
  int index() const noexcept { return index_; }
  CUcontext context() const noexcept { return context_; }

  /// A copy stream for work behind `producer` (a stream's number or handle): the one that serves it
  /// already, so that its copies keep their order, else an idle one, else the least busy one.
  /// Requires: the context is current. Throws Error (device_failed).
  CopyStreamUse copy_stream_for(void* producer);

  /// A stream on which memory goes back behind whatever used it: nothing else is enqueued there, so
  /// that nothing else waits. Requires: the context is current. Throws Error (device_failed).
  cudaStream_t free_stream();

  /// The next of the streams that others may make wait; none that is being captured. Requires: the
  /// context is current. Throws Error (device_failed, stream_capturing where all are).
  cudaStream_t import_stream();

  /// The stream in whose order memory of ours is first used. Requires: the context is current.
  /// Throws Error (device_failed).
  cudaStream_t allocation_stream();

  /// What is enqueued on `later` from here on runs after what `earlier` has enqueued. Requires: the
  /// context is current. Throws Error (device_failed).
  void order(cudaStream_t earlier, cudaStream_t later);

  /// Waited for by polling, or by other streams.
  EventPool& events() noexcept { return *events_; }
  /// Waited for by a thread, which sleeps.
  EventPool& sleeping_events() noexcept { return *sleeping_events_; }

  /// Waits for the copy streams' operations and ends their threads.
  void stop() noexcept;
  /// Whether no operation of a copy stream is in flight.
  bool idle() noexcept;

  /// Throws Error (device_failed) once the device has failed for good.
  void require_alive() const;
  bool alive() const noexcept { return cause_.load() == cudaSuccess; }
  /// From here on nothing is tried on this device: what its work still touches is unknown.
  void mark_dead(cudaError_t cause) noexcept;
  /// mark_dead() where `error` is one that a device does not recover from.
  void note(cudaError_t error) noexcept;
  /// note(), and throws Error (device_failed) for such an error of `call`.
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
