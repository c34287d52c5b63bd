// SPDX-License-Identifier: Apache-2.0
// CopyStream: a stream for copies that do not run on the caller's stream, one for their kernels,
// and a ring of two slots of device memory for strided tensors: one stream packs a slot while the
// other copies the slot before. A staging needs no other device memory. A device has two of them,
// so that a slow producer delays few others.
#pragma once

#include <array>
#include <memory>
#include <mutex>

#include "runtime/event_pool.h"

namespace dlbridge::cuda {

struct DestroyStream {
  const CudaApi* api = nullptr;
  void operator()(CUstream stream) const noexcept { api->stream_destroy(stream); }
};
/// A non-blocking stream: it and the legacy stream do not wait for each other.
using OwnedStream = std::unique_ptr<CUstream_st, DestroyStream>;

/// Requires: the device's context is current. Throws Error (device_failed).
OwnedStream make_stream(const CudaApi& api);

/// Thread: any that holds `mutex`, but for copies().
class CopyStream {
 public:
  static constexpr int64_t kSlotBytes = int64_t{16} << 20;

  /// Requires: the device's context is current. Throws Error (device_failed).
  explicit CopyStream(const CudaApi& api) : api_(api), copies_(make_stream(api)) {}
  CopyStream(const CopyStream&) = delete;
  CopyStream& operator=(const CopyStream&) = delete;
  /// Requires: nothing uses it; the device's context is current.
  ~CopyStream() { free_slots(); }

  /// Held from enter() to read(), and for each of the other functions.
  std::mutex mutex;

  CUstream copies() const noexcept { return copies_.get(); }
  /// Made by the first call: most operations run no kernel here. Requires: the device's context is
  /// current. Throws Error (device_failed).
  CUstream kernels();

  /// Returns the bytes of a slot for pieces of at most min(bytes, kSlotBytes): fewer if the device
  /// has no room, never fewer than before. The slots are kept for later operations: an allocation
  /// maps memory, which costs more than a piece's copy. Allocates on `allocations`. Requires: the
  /// device's context is current. Throws Error (out_of_memory, device_failed).
  int64_t reserve(int64_t bytes, EventPool& events, CUstream allocations);
  /// The next slot; the calls that follow are about it. `first` is the stream that will fill it,
  /// which waits until the slot's last content was read.
  std::byte* enter(CUstream first);
  /// The read of it was enqueued on `second`.
  void read(CUstream second);

 private:
  void free_slots() noexcept;

  const CudaApi& api_;
  OwnedStream copies_;
  OwnedStream kernels_;
  std::byte* memory_ = nullptr;
  int64_t slot_bytes_ = 0;
  std::array<PooledEvent, 2> reads_;  // the last ones of both slots
  size_t current_ = 1;
};

}  // namespace dlbridge::cuda
