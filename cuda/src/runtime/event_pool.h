// SPDX-License-Identifier: Apache-2.0
// EventPool: reuses events. Creating an event costs a microsecond and may synchronise; taking one
// from the pool does neither.
//
// Owns its events until the pool is destroyed. Thread: any.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "runtime/cuda_api.h"

namespace dlbridge::cuda {

class EventPool;

/// An event of a pool; returns to it when destroyed. Move-only.
class PooledEvent {
 public:
  PooledEvent() noexcept = default;
  PooledEvent(EventPool& pool, CUevent event) noexcept : event_(event, GiveBack{&pool}) {}

  CUevent get() const noexcept { return event_.get(); }
  explicit operator bool() const noexcept { return event_ != nullptr; }
  /// Drops the event without returning it: after a device error its state is unknown.
  void leak() noexcept { static_cast<void>(event_.release()); }

 private:
  struct GiveBack {
    EventPool* pool;
    void operator()(CUevent event) const noexcept;
  };
  std::unique_ptr<CUevent_st, GiveBack> event_{nullptr, GiveBack{nullptr}};
};

/// Events of one device, without timing; a thread that waits for one sleeps.
class EventPool {
 public:
  explicit EventPool(const CudaApi& api) noexcept : api_(api) {}
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;
  /// Requires: all are back; the device's context is current.
  ~EventPool();

  /// Requires: the device's context is current. Throws Error (device_failed), std::bad_alloc.
  PooledEvent take();

 private:
  friend class PooledEvent;
  const CudaApi& api_;
  std::mutex mutex_;
  std::vector<CUevent> free_;
  size_t made_ = 0;  // free_ has room for all of them, so giving back cannot fail
};

}  // namespace dlbridge::cuda
