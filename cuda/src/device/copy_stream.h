// SPDX-License-Identifier: Apache-2.0
// CopyStream: a stream for copies between host and one device, one for the kernels that pack and
// unpack, and the thread that waits for the end of operations.
// A device has a few of them, so that a slow producer delays few others. Both streams are
// non-blocking: they and the legacy stream do not wait for each other. Thread: any.
#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include "runtime/waiter.h"

namespace dlbridge::cuda {

class DeviceContext;

class CopyStream {
 public:
  /// Requires: the device's context is current. Throws Error (device_failed).
  explicit CopyStream(DeviceContext& device);
  CopyStream(const CopyStream&) = delete;
  CopyStream& operator=(const CopyStream&) = delete;
  /// Requires: stopped; the device's context is current.
  ~CopyStream();

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

/// Counts an operation of a copy stream while it lives.
class CopyStreamUse {
 public:
  explicit CopyStreamUse(CopyStream& copy_stream) noexcept : copy_stream_(&copy_stream) {
    ++copy_stream.in_flight;
  }
  CopyStreamUse(CopyStreamUse&& other) noexcept
      : copy_stream_(std::exchange(other.copy_stream_, nullptr)) {}
  CopyStreamUse& operator=(CopyStreamUse&&) = delete;
  ~CopyStreamUse() {
    if (copy_stream_ != nullptr) --copy_stream_->in_flight;
  }
  CopyStream& copy_stream() const noexcept { return *copy_stream_; }

 private:
  CopyStream* copy_stream_;
};

}  // namespace dlbridge::cuda
