// SPDX-License-Identifier: Apache-2.0
// Copy plan: turns two strided layouts into the parameters of one copy. Pure: calls no CUDA,
// dereferences no pointer, allocates nothing.
//
// Views here are validated (no overflow) and their `data` is an address with the offset folded in.
// Thread: any.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "dlbridge/layout.h"
#include "dlbridge/tensor_view.h"
#include "kernels/pack_kernels.h"

namespace dlbridge::cuda {

/// Which side of a copy is host memory.
enum class Direction : uint8_t { to_host, to_device, on_device };

/// The one call that makes a copy.
enum class CopyKind : uint8_t {
  empty,  ///< nothing to do
  flat,   ///< cuMemcpyAsync
  rows,   ///< cuMemcpy2DAsync
  boxes,  ///< cuMemcpy3DAsync
  pack,   ///< a kernel on the device: both sides must be device memory
};

/// One copy. Not initialised: each kind sets what it uses.
struct CopyStep {
  CopyKind kind;
  const std::byte* source;  ///< lowest address that the copy starts from; pack: first element
  std::byte* target;
  int64_t bytes;  ///< how much arrives

  /// The bytes of a run, at strides of 1; rows, boxes: the rows of a plane, by their pitch; boxes:
  /// planes, by multiples of the pitch, at least the rows of one apart.
  std::array<LoopDim, 3> dims;

  PackParams pack;
};

/// The copy of one run of bytes.
CopyStep flat_copy(const void* source, void* target, int64_t bytes) noexcept;

/// Returns true for elements below a byte that are not padded: they have no addresses of their own.
bool is_packed(const TensorView& view) noexcept;

/// Below this width a kernel through device memory is faster than a 2D copy.
inline constexpr int64_t kMinRowBytes = 4096;

/// Plans the copy of `source` to `target` by one call: flat where both are one run, rows
/// or boxes where runs of at least `min_row_bytes` lie at positive pitches in one or two further
/// dimensions, else pack. Requires: same shape, dtype and padding; target without overlap. Source
/// strides may have any sign and be zero. Throws Error (packed_subbyte) where elements of packed
/// sub-byte types would have to be moved one by one.
CopyStep plan_copy(const TensorView& source, const TensorView& target,
                   int64_t min_row_bytes = kMinRowBytes);

/// The kernel that suits `params`. Every kernel is right for params of plan_copy (transpose:
/// rank 2 or more), this one is fast.
KernelId choose_kernel(const PackParams& params) noexcept;

/// Cuts a copy into pieces of at most `max_bytes` each (one element where that is larger), in the
/// memory order of the target:
///
///   Pieces pieces(source, target, max_bytes);
///   while (pieces.next()) move(pieces.source(), pieces.target());
///
/// Both views of a piece have the same shape; dimensions are coalesced, in the target's memory
/// order, with positive target strides, so a piece of a dense target is contiguous (row-major) and
/// begins where the last one ended. Pieces of packed sub-byte types are views of their bytes
/// (uint8). To cut in the source's order, swap the two. Refers only to the memory of the views, not
/// to their arrays.
class Pieces {
 public:
  /// Requires and throws what plan_copy does; max_bytes > 0.
  Pieces(const TensorView& source, const TensorView& target, int64_t max_bytes);
  // The views of a piece point into the object.
  Pieces(const Pieces&) = delete;
  Pieces& operator=(const Pieces&) = delete;

  /// Goes to the next piece; false when there is none. The views change with it.
  bool next() noexcept;

  const TensorView& source() const noexcept { return source_; }
  const TensorView& target() const noexcept { return target_; }

 private:
  TensorView source_;
  TensorView target_;
  std::byte* source_begin_ = nullptr;
  std::byte* target_begin_ = nullptr;
  int32_t cut_ = 0;    // dimensions outside it stand at one index, those inside are whole
  int64_t step_ = 0;   // extent of a piece along cut_
  int64_t steps_ = 0;  // pieces along cut_
  int64_t count_ = 0;
  int64_t index_ = 0;  // pieces given out
  // Outermost first.
  std::array<int64_t, PackParams::kMaxRank> whole_;
  std::array<int64_t, PackParams::kMaxRank> shape_;
  std::array<int64_t, PackParams::kMaxRank> source_strides_;
  std::array<int64_t, PackParams::kMaxRank> target_strides_;
};

}  // namespace dlbridge::cuda
