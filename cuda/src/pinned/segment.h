// SPDX-License-Identifier: Apache-2.0
// PinnedSegment: host memory that is mapped, touched and registered with CUDA piece by piece, so
// that every device can copy to and from it. It is not memory of cudaHostAlloc, which is freed with
// the context that it was allocated in.
//
// Owns: the mapping and its registrations. Thread: one at a time.
#pragma once

#include <cstddef>

#include "runtime/cuda_api.h"

namespace dlbridge::cuda {

/// The flags of mmap() for memory that is registered: shared where a fork of this kernel would make
/// the parent copy its own registered pages on the next write, private otherwise. `release` as
/// uname() has it.
int mapping_flags(const char* release) noexcept;

class PinnedSegment {
 public:
  /// Alignment of the mapping, and what its size is a multiple of: a huge page.
  static constexpr size_t kGranularity = size_t{2} << 20;
  /// The longest stretch that is registered in one call.
  static constexpr size_t kPieceBytes = size_t{1} << 30;

  /// Maps `bytes`, a multiple of kGranularity. Throws Error (out_of_memory).
  explicit PinnedSegment(size_t bytes, size_t piece_bytes = kPieceBytes);
  PinnedSegment(const PinnedSegment&) = delete;
  PinnedSegment& operator=(const PinnedSegment&) = delete;
  /// Unmaps what is not registered. What is stays mapped until the process ends: the driver would
  /// copy a later mapping at the same address through the old pages.
  ~PinnedSegment();

  std::byte* data() const noexcept { return data_; }
  size_t size() const noexcept { return size_; }
  /// The context that the first piece was registered in.
  CUcontext context() const noexcept { return context_; }
  /// Bytes that are registered, from data() on.
  size_t registered() const noexcept { return registered_; }
  /// Bytes from `offset` to the end of its piece.
  size_t bytes_to_seam(size_t offset) const noexcept;

  /// Touches the next piece, on several threads where that pays, and registers it for all devices.
  /// The first one chooses the NUMA node: that of the current device. Returns the piece's bytes, or
  /// 0 where the driver refuses. Requires: a CallGuard. Throws Error (device_failed) if the device
  /// failed.
  size_t register_next(const CudaApi& api);

  /// Unmaps what is not registered; size() is registered() from then on.
  void shrink() noexcept;

  /// Undoes the registrations, the last one first, in the context that they were made in; the
  /// memory stays mapped and keeps its content. Stops at a piece that CUDA fails to unregister:
  /// registered() says what is left. Requires: no copy to or from it is pending.
  void unregister(const CudaApi& api) noexcept;

 private:
  std::byte* data_;
  size_t size_;
  size_t piece_bytes_;
  size_t registered_ = 0;
  CUcontext context_ = nullptr;
};

}  // namespace dlbridge::cuda
