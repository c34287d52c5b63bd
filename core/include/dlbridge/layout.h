// SPDX-License-Identifier: Apache-2.0
// Layout: functions of shape and strides. Strides are in elements; no pointer is followed.
//
// "Overflow-checked" functions accept any 64-bit input; the others require a validated view.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "dlbridge/export.h"
#include "dlbridge/tensor_view.h"

namespace dlbridge {

/// Extent of memory around the first element: bytes that lie before it and after it (its own bytes
/// included).
struct ByteRange {
  int64_t before = 0;
  int64_t after = 0;
};

/// Product of the extents. Overflow-checked: nothing on overflow or a negative extent. Zero if any
/// extent is zero.
DLBRIDGE_API std::optional<int64_t> element_count(std::span<const int64_t> shape) noexcept;

/// The bytes that strided memory spans. Overflow-checked. An empty shape spans nothing.
DLBRIDGE_API std::optional<ByteRange> byte_range(std::span<const int64_t> shape,
                                                 std::span<const int64_t> strides,
                                                 int64_t itemsize) noexcept;

/// Row-major strides for `shape`, written to `out` (same length). Size-1 and empty dimensions count
/// as 1.
DLBRIDGE_API void compact_strides(std::span<const int64_t> shape, int64_t* out) noexcept;

/// The strides of `view` with those of extents of 1, which mean nothing, replaced by what a dense
/// array of the same inner dimensions has; written to `out`, which may be the view's own. Wraps
/// around instead of overflowing.
inline void canonical_strides(const TensorView& view, int64_t* out) noexcept {
  uint64_t dense = 1;
  for (int32_t i = view.ndim - 1; i >= 0; --i) {
    const uint64_t stride = view.shape[i] == 1 ? dense : static_cast<uint64_t>(view.strides[i]);
    out[i] = static_cast<int64_t>(stride);
    dense = stride * static_cast<uint64_t>(view.shape[i]);
  }
}

/// Dense strides in the same dimension order as `view` (NumPy's order "K"), so that a copy of a
/// permuted array keeps its layout. Broadcast dimensions become real ones. Throws std::bad_alloc
/// above rank 64.
DLBRIDGE_API void dense_strides_like(const TensorView& view, int64_t* out);

/// Whether the elements lie row-major without gaps. Extent-1 dimensions do not count; empty is
/// contiguous.
inline bool is_contiguous(const TensorView& view) noexcept {
  uint64_t expected = 1;  // unsigned: see TensorView::size
  bool dense = true;
  for (int32_t i = view.ndim - 1; i >= 0; --i) {
    const int64_t extent = view.shape[i];
    if (extent == 0) return true;
    dense &= extent == 1 || view.strides[i] == static_cast<int64_t>(expected);
    expected *= static_cast<uint64_t>(extent);
  }
  return dense;
}

/// Whether the first element lies at a multiple of its size, or of 16 bytes where it is larger:
/// torch's complex types and the vector loads of its compiler assume that.
inline bool is_aligned(const TensorView& view) noexcept {
  const int64_t itemsize = view.itemsize();
  const uintptr_t alignment = itemsize >= 16 ? 16 : static_cast<uintptr_t>(itemsize);
  if ((alignment & (alignment - 1)) != 0) return true;
  return (reinterpret_cast<uintptr_t>(view.data) & (alignment - 1)) == 0;
}

/// Index of the first dimension of extent > 1 with a negative stride, or -1.
DLBRIDGE_API int32_t negative_stride_dimension(const TensorView& view) noexcept;

/// Index of the first dimension of extent > 1 with a stride of 0, or -1: one write would show in
/// many places.
inline int32_t broadcast_dimension(const TensorView& view) noexcept {
  if (view.is_empty()) return -1;
  for (int32_t i = 0; i < view.ndim; ++i) {
    if (view.strides[i] == 0 && view.shape[i] > 1) return i;
  }
  return -1;
}

/// Whether two different index tuples reach the same element, broadcast (stride 0) dimensions left
/// aside. A search that is not decided within its bound counts as overlapping.
DLBRIDGE_API bool has_partial_overlap(const TensorView& view) noexcept;

/// Whether the address ranges of two views on one device have a byte in common.
DLBRIDGE_API bool ranges_intersect(const TensorView& a, const TensorView& b) noexcept;

/// Whether two views have a byte of an element in common: interleaved views do not. The answer does
/// not depend on the order of the two. It is exact, but for searches that are not decided within
/// 20000 steps, which only views of several unrelated strides need: those count as common.
DLBRIDGE_API bool elements_intersect(const TensorView& a, const TensorView& b) noexcept;

/// One dimension of a coalesced layout, in bytes, for a pair of views walked together.
struct LoopDim {
  int64_t extent;
  int64_t dst_stride_bytes;
  int64_t src_stride_bytes;
};

/// Sorts dimensions so that the destination is walked innermost-first (index 0 is innermost) and
/// merges those that are contiguous in both, each with its own itemsize. `out` has room for ndim
/// entries. Returns how many dimensions remain; 0 for one element.
DLBRIDGE_API int32_t coalesce(const TensorView& dst, const TensorView& src, LoopDim* out) noexcept;

}  // namespace dlbridge
