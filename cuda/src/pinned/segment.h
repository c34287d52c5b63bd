// SPDX-License-Identifier: Apache-2.0
// PinnedSegment: a stretch of host memory that is mapped, touched and registered with CUDA, so that
// every device can copy to and from it. It is not
// memory of cudaHostAlloc, which is freed with the context that it was allocated in.
//
// Owns: the mapping and its registrations. Thread: one at a time. register_with() and unregister()
// call CUDA and require a current context; nothing else does.
#pragma once

#include <cstddef>
#include <vector>

#include "runtime/cuda_api.h"

namespace dlbridge::cuda {

class PinnedSegment {
 public:
  /// Alignment of the mapping, and what its size is a multiple of: a huge page.
  static constexpr size_t kGranularity = size_t{2} << 20;
  /// The longest stretch that is registered in one call.
  static constexpr size_t kPieceBytes = size_t{1} << 30;

  PinnedSegment() noexcept = default;
  /// Maps `bytes`, a multiple of kGranularity, and touches every page, on several threads where
  /// that pays. Throws Error (out_of_memory).
  explicit PinnedSegment(size_t bytes, size_t piece_bytes = kPieceBytes);
  PinnedSegment(PinnedSegment&& other) noexcept;
  PinnedSegment& operator=(PinnedSegment&& other) noexcept;
  /// Unmaps what is not registered. What is stays mapped until the process ends: the driver would
  /// copy a later mapping at the same address through the old pages.
  ~PinnedSegment();

  std::byte* data() const noexcept { return data_; }
  size_t size() const noexcept { return size_; }
  /// Bytes that are registered.
  size_t registered() const noexcept;
  /// Bytes from `offset` to the end of its piece.
  size_t bytes_to_seam(size_t offset) const noexcept;

  /// Registers all pieces, for all devices. Throws Error (out_of_memory; device_failed if the
  /// device failed); the pieces registered before are rolled back first.
  void register_with(const CudaApi& api);

  /// Undoes the registrations; the memory stays mapped and keeps its content. Pieces that CUDA does
  /// not let go of stay registered(). Requires: no copy to or from it is pending.
  void unregister(const CudaApi& api) noexcept;

  /// Leaves the mapping as it is until the process ends.
  void abandon() noexcept { pieces_.clear(); }

 private:
  size_t piece_length(size_t piece) const noexcept;
  void unmap() noexcept;

  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t piece_bytes_ = kPieceBytes;
  std::vector<char> pieces_;  // whether each is registered
};

}  // namespace dlbridge::cuda
