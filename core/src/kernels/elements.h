// SPDX-License-Identifier: Apache-2.0
// Elements of any size and stride, and one element over and over.
#pragma once

#include "vectors.h"

namespace dlbridge::DLBRIDGE_KERNELS {
namespace {

// Elements along each side of a tile.
constexpr int64_t kTile = 32;

// Walks both dimensions in tiles, so that neither side is read or written a whole cache line for
// one element.
template <int kSize>
void elements(const CopyBlock& block) noexcept {
  const LoopDim a = block.inner;
  const LoopDim b = block.outer;
  const int64_t size = block.itemsize;
  const bool tiled = magnitude(b.src_stride_bytes) < magnitude(a.src_stride_bytes);
  const int64_t a_tile = tiled ? kTile : a.extent;
  for (int64_t bb = 0; bb < b.extent; bb += kTile) {
    const int64_t b_end = smaller(b.extent, bb + kTile);
    for (int64_t aa = 0; aa < a.extent; aa += a_tile) {
      const int64_t a_end = smaller(a.extent, aa + a_tile);
      for (int64_t j = bb; j < b_end; ++j) {
        char* dst = block.dst + j * b.dst_stride_bytes + aa * a.dst_stride_bytes;
        const char* src = block.src + j * b.src_stride_bytes + aa * a.src_stride_bytes;
        for (int64_t i = aa; i < a_end; ++i) {
          copy_element<kSize>(dst, src, size);
          dst += a.dst_stride_bytes;
          src += a.src_stride_bytes;
        }
      }
    }
  }
}

CopyKernel any(int64_t itemsize) noexcept {
  switch (itemsize) {
    case 1:
      return elements<1>;
    case 2:
      return elements<2>;
    case 3:
      return elements<3>;
    case 4:
      return elements<4>;
    case 6:
      return elements<6>;
    case 8:
      return elements<8>;
    case 12:
      return elements<12>;
    case 16:
      return elements<16>;
    case 24:
      return elements<24>;
    case 32:
      return elements<32>;
    case 48:
      return elements<48>;
    case 64:
      return elements<64>;
    default:
      return elements<0>;
  }
}

template <int kSize>
void repeated(const CopyBlock& block) noexcept {
  using Value = typename Bits<kSize>::Type;
  const int64_t n = block.inner.extent;  // the stores could alias `block`
  for (int64_t row = 0; row < block.outer.extent; ++row) {
    char* dst = block.dst + row * block.outer.dst_stride_bytes;
    const auto value = load<Value>(block.src + row * block.outer.src_stride_bytes);
    for (int64_t i = 0; i < n; ++i) store(dst + i * kSize, value);
  }
}

}  // namespace
}  // namespace dlbridge::DLBRIDGE_KERNELS
