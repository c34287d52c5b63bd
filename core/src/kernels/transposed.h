// SPDX-License-Identifier: Apache-2.0
// Transposition in tiles of 16-byte rows.
#pragma once

#include "elements.h"

namespace dlbridge::DLBRIDGE_KERNELS {
namespace {

// Lines at multiples of this stride compete for the same places of the first-level cache.
constexpr int64_t kLikeStride = 4096;

// Interleaves the low or high halves of each lane of two vectors.
template <int kCount, bool kHigh>
struct Interleave {  // kCount elements a lane
  static constexpr int at(int i) {
    const int lane = i / kCount * kCount;
    const int within = i % kCount / 2 + (kHigh ? kCount / 2 : 0);
    return lane + within + (i % 2 != 0 ? kCount * kLanes : 0);
  }
};

// Reads kCount * kLanes rows of kCount elements, writes kCount rows of kCount * kLanes.
template <int kSize>
[[gnu::always_inline]] inline void transpose_tile(char* dst, int64_t dst_step, const char* src,
                                                  int64_t src_step) noexcept {
  constexpr int kCount = kLaneBytes / kSize;
  using V = Vector<kSize, kVectorBytes>;
  V v[kCount];
  V w[kCount];
  DLBRIDGE_UNROLL
  for (int i = 0; i < kCount; ++i) {
    Vector<1> lanes[kLanes];
    DLBRIDGE_UNROLL
    for (int lane = 0; lane < kLanes; ++lane)
      lanes[lane] = load<Vector<1>>(src + (i + lane * kCount) * src_step);
    if constexpr (kLanes == 1) {
      v[i] = reinterpret_cast<V>(lanes[0]);
    } else {
      v[i] = reinterpret_cast<V>(__builtin_shufflevector(
          lanes[0], lanes[kLanes - 1], 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17,
          18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31));
    }
  }
  DLBRIDGE_UNROLL
  for (int step = 1; step < kCount; step *= 2) {
    DLBRIDGE_UNROLL
    for (int i = 0; i < kCount / 2; ++i) {
      w[2 * i] = shuffle<Interleave<kCount, false>, kCount * kLanes>(v[i], v[i + kCount / 2]);
      w[2 * i + 1] = shuffle<Interleave<kCount, true>, kCount * kLanes>(v[i], v[i + kCount / 2]);
    }
    DLBRIDGE_UNROLL
    for (int i = 0; i < kCount; ++i) v[i] = w[i];
  }
  DLBRIDGE_UNROLL
  for (int i = 0; i < kCount; ++i) store(dst + i * dst_step, v[i]);
}

// Transposes a square of one cache line in each direction. The source's lines are brought together
// first, and the destination's written as a whole: where strides are multiples of large powers of
// two, few of these lines fit the cache at once.
template <int kSize>
void transpose_square(char* dst, int64_t dst_step, const char* src, int64_t src_step) noexcept {
  constexpr int kSide = kCacheLine / kSize;
  constexpr int kColumns = kLaneBytes / kSize;
  constexpr int kRows = kColumns * kLanes;
  using V = Vector<1, kVectorBytes>;
  alignas(kCacheLine) char square[kSide * kCacheLine];
  for (int row = 0; row < kSide; ++row) {
    for (int part = 0; part < kCacheLine; part += kVectorBytes)
      store(square + row * kCacheLine + part, load<V>(src + row * src_step + part));
  }
  for (int column = 0; column < kSide; column += kColumns) {
    for (int row = 0; row < kSide; row += kRows) {
      transpose_tile<kSize>(dst + row * kSize + column * dst_step, dst_step,
                            square + row * kCacheLine + column * kSize, kCacheLine);
    }
  }
}

template <int kSize>
void transposed(const CopyBlock& block) noexcept {
  constexpr int64_t kColumns = kLaneBytes / kSize;  // of a tile, along outer
  constexpr int64_t kRows = kColumns * kLanes;      // along inner
  constexpr int64_t kSide = kCacheLine / kSize;
  const LoopDim a = block.inner;
  const LoopDim b = block.outer;
  if (a.extent < kRows || b.extent < kColumns) return elements<kSize>(block);
  const auto tile_at = [&](int64_t i, int64_t j) {
    transpose_tile<kSize>(block.dst + i * kSize + j * b.dst_stride_bytes, b.dst_stride_bytes,
                          block.src + i * a.src_stride_bytes + j * kSize, a.src_stride_bytes);
  };
  const auto crowds = [](int64_t stride) {
    return smaller(stride & -stride, kLikeStride) * kSide > kFirstCache;
  };
  const bool squares = crowds(a.src_stride_bytes) || crowds(b.dst_stride_bytes);
  // A strip of one cache line of the source in width, from its first row to its last.
  for (int64_t strip = 0; strip < b.extent; strip += kSide) {
    const int64_t strip_end = smaller(b.extent, strip + kSide);
    int64_t i = 0;
    if (squares && strip_end == strip + kSide) {
      for (; i + kSide <= a.extent; i += kSide) {
        transpose_square<kSize>(
            block.dst + i * kSize + strip * b.dst_stride_bytes, b.dst_stride_bytes,
            block.src + i * a.src_stride_bytes + strip * kSize, a.src_stride_bytes);
      }
    }
    for (; i < a.extent; i += kRows) {
      const int64_t row = smaller(i, a.extent - kRows);  // the last tile overlaps the one before
      for (int64_t j = strip; j < strip_end; j += kColumns)
        tile_at(row, smaller(j, b.extent - kColumns));
    }
  }
}

}  // namespace
}  // namespace dlbridge::DLBRIDGE_KERNELS
