// SPDX-License-Identifier: Apache-2.0
// CopyStream: a stream for copies that do not run on the caller's stream, one for their kernels,
// and the ring between both. A device has two of them, so that a slow producer delays few others.
// Both streams are non-blocking: they and the legacy stream do not wait for each other. Thread:
// any.
#pragma once

#include <mutex>

#include "device/device_ring.h"

namespace dlbridge::cuda {

class CopyStream {
 public:
  /// Requires: the device's context is current. Throws Error (device_failed).
  explicit CopyStream(const CudaApi& api);
  CopyStream(const CopyStream&) = delete;
  CopyStream& operator=(const CopyStream&) = delete;
  /// Requires: nothing uses it; the device's context is current.
  ~CopyStream();

  cudaStream_t copies() const noexcept { return copies_; }
  /// Made by the first call: most operations run no kernel here. Requires: the device's context is
  /// current. Throws Error (device_failed).
  cudaStream_t kernels();
  DeviceRing& ring() noexcept { return ring_; }

 private:
  const CudaApi& api_;
  cudaStream_t copies_ = nullptr;
  std::mutex mutex_;  // held while kernels_ is made
  cudaStream_t kernels_ = nullptr;
  DeviceRing ring_;
};

}  // namespace dlbridge::cuda
