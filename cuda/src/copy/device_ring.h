// SPDX-License-Identifier: Apache-2.0
// DeviceRing: two slots of device memory for strided tensors: one stream packs a slot while the
// other copies the slot before. A staging needs no other device memory.
//
// Owns its memory, which is allocated and freed in stream order. Belongs to one operation; not
// thread-safe.
#pragma once

#include <array>

#include "device/device_context.h"

namespace dlbridge::cuda {

class DeviceRing {
 public:
  static constexpr int64_t kSlotBytes = int64_t{16} << 20;

  /// Slots for pieces of at most min(bytes, kSlotBytes); smaller ones if the device has no room.
  /// Enqueues the allocation. Requires: the device's context is current. Throws Error
  /// (out_of_memory, device_failed).
  DeviceRing(DeviceContext& device, cudaStream_t copies, cudaStream_t kernels, int64_t bytes);
  DeviceRing(const DeviceRing&) = delete;
  DeviceRing& operator=(const DeviceRing&) = delete;
  /// Enqueues the free on `copies`. Requires: join(copies) after the last use.
  ~DeviceRing();

  /// The largest piece that passes.
  int64_t slot_bytes() const noexcept { return slot_bytes_; }

  /// The next slot; the calls that follow are about it. `first` is the stream that will fill it,
  /// which waits until the slot's last content was read.
  std::byte* enter(cudaStream_t first);
  /// `first` has filled it: `second` may read it.
  void filled(cudaStream_t first, cudaStream_t second);
  /// The read of it was enqueued on `second`.
  void read(cudaStream_t second);

  /// Makes `stream` wait for all reads.
  void join(cudaStream_t stream);

 private:
  struct Slot {
    PooledEvent filled;
    PooledEvent read;
    bool used = false;
  };

  DeviceContext& device_;
  cudaStream_t copies_;
  std::byte* memory_ = nullptr;
  int64_t slot_bytes_ = 0;
  std::array<Slot, 2> slots_;
  size_t current_ = 1;
};

}  // namespace dlbridge::cuda
