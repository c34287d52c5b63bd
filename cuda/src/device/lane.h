// Lane: a private way between host and one device: a stream for copies, one for kernels that pack
// and unpack, and the thread that sees operations end.
//
// A device has a few of them, so that a slow producer delays nobody else. Both streams are
// non-blocking: the legacy stream neither waits for them nor they for it. Operations that share a
// lane share nothing but its streams. Thread: any.
#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include "runtime/waiter.h"

namespace dlbridge::cuda {

class DeviceContext;

class Lane {
 public:
  /// Requires: the device's context is current. Throws Error (device_failed).
  explicit Lane(DeviceContext& device);
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;
  /// Requires: stopped; the device's context is current.
  ~Lane();

  /// Waits for the operations that were posted and ends the thread.
  void stop() noexcept { waiter_->stop(); }

  DeviceContext& device() const noexcept { return device_; }
  cudaStream_t copies() const noexcept { return copies_; }
  cudaStream_t kernels() const noexcept { return kernels_; }
  Waiter& waiter() noexcept { return *waiter_; }

  /// Operations that were submitted and have not ended.
  std::atomic<int> in_flight{0};

 private:
  DeviceContext& device_;
  cudaStream_t copies_ = nullptr;
  cudaStream_t kernels_ = nullptr;
  std::unique_ptr<Waiter> waiter_;
};

/// Counts an operation of a lane while it lives.
class LaneUse {
 public:
  explicit LaneUse(Lane& lane) noexcept : lane_(&lane) { ++lane.in_flight; }
  LaneUse(LaneUse&& other) noexcept : lane_(std::exchange(other.lane_, nullptr)) {}
  LaneUse& operator=(LaneUse&&) = delete;
  ~LaneUse() {
    if (lane_ != nullptr) --lane_->in_flight;
  }
  Lane& lane() const noexcept { return *lane_; }

 private:
  Lane* lane_;
};

}  // namespace dlbridge::cuda
