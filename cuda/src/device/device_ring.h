// SPDX-License-Identifier: Apache-2.0
// DeviceRing: two slots of device memory for strided tensors: one stream packs a slot while the
// other copies the slot before. A staging needs no other device memory.
//
// Belongs to a copy stream and is kept for later operations: an allocation maps memory, which costs
// more than a piece's copy. Thread: any that holds `mutex` from enter() to read().
#pragma once

#include <array>
#include <mutex>

#include "runtime/event_pool.h"

namespace dlbridge::cuda {

class DeviceRing {
 public:
  static constexpr int64_t kSlotBytes = int64_t{16} << 20;

  explicit DeviceRing(const CudaApi& api) noexcept : api_(api) {}
  DeviceRing(const DeviceRing&) = delete;
  DeviceRing& operator=(const DeviceRing&) = delete;

  std::mutex mutex;

  /// Returns the bytes of a slot for pieces of at most min(bytes, kSlotBytes): fewer if the device
  /// has no room, never fewer than before. Allocates on `allocations`, and frees what was smaller
  /// on `copies`. Requires: `mutex` is held; the device's context is current. Throws Error
  /// (out_of_memory, device_failed).
  int64_t reserve(int64_t bytes, EventPool& events, cudaStream_t allocations, cudaStream_t copies);
  /// Frees the memory on `copies`. Requires: nothing uses it.
  void release(cudaStream_t copies) noexcept;

  /// The next slot; the calls that follow are about it. `first` is the stream that will fill it,
  /// which waits until the slot's last content was read.
  std::byte* enter(cudaStream_t first);
  /// `first` has filled it: `second` may read it.
  void filled(cudaStream_t first, cudaStream_t second);
  /// The read of it was enqueued on `second`.
  void read(cudaStream_t second);

 private:
  struct Slot {
    PooledEvent filled;
    PooledEvent read;
  };

  const CudaApi& api_;
  std::byte* memory_ = nullptr;
  int64_t slot_bytes_ = 0;
  std::array<Slot, 2> slots_;
  size_t current_ = 1;
};

}  // namespace dlbridge::cuda
