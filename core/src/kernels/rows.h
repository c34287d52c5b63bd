// SPDX-License-Identifier: Apache-2.0
// Rows that are contiguous on both sides.
#pragma once

#include "vectors.h"

namespace dlbridge::DLBRIDGE_KERNELS {
namespace {

// Bytes of the shortest row that is written past the caches.
constexpr int64_t kShortestStream = 2048;
// Bytes of the longest rows that are copied without a call of memcpy: where all of them fit the
// first-level cache, and where they do not.
constexpr int64_t kShortRun = 512;
constexpr int64_t kLongestRun = 4096;

// Copies a run of at least a vector; kFetch: asks for the lines at `next`, which are written next.
template <bool kFetch>
[[gnu::always_inline]] inline void copy_run(char* dst, const char* src, int64_t bytes,
                                            const char* next) noexcept {
  using V = Vector<1, kVectorBytes>;
  constexpr int kStep = 2 * kCacheLine;
  constexpr int kVectors = kStep / kVectorBytes;
  int64_t i = 0;
  for (; i + kStep <= bytes; i += kStep) {
    if constexpr (kFetch) {
      __builtin_prefetch(next + i, 1);
      __builtin_prefetch(next + i + kCacheLine, 1);
    }
    V v[kVectors];
    DLBRIDGE_UNROLL
    for (int k = 0; k < kVectors; ++k) v[k] = load<V>(src + i + k * kVectorBytes);
    DLBRIDGE_UNROLL
    for (int k = 0; k < kVectors; ++k) store(dst + i + k * kVectorBytes, v[k]);
  }
  for (; i + kVectorBytes < bytes; i += kVectorBytes) store(dst + i, load<V>(src + i));
  store(dst + bytes - kVectorBytes, load<V>(src + bytes - kVectorBytes));
}

template <bool kFetch>
void short_rows(const CopyBlock& block, int64_t bytes) noexcept {
  const LoopDim outer = block.outer;
  char* dst = block.dst;
  const char* src = block.src;
  for (int64_t i = 0; i < outer.extent; ++i) {
    copy_run<kFetch>(dst, src, bytes, dst + outer.dst_stride_bytes);
    dst += outer.dst_stride_bytes;
    src += outer.src_stride_bytes;
  }
}

// Writes past the caches: the destination's lines are not read first.
[[gnu::always_inline]] inline void stream_run(char* dst, const char* src, int64_t bytes) noexcept {
  using V = Vector<1>;
  int64_t i =
      smaller(bytes, static_cast<int64_t>(-reinterpret_cast<uintptr_t>(dst) & (kLaneBytes - 1)));
  if (i > 0) memcpy(dst, src, static_cast<size_t>(i));
  for (; i + kCacheLine <= bytes; i += kCacheLine) {
    DLBRIDGE_UNROLL
    for (int part = 0; part < kCacheLine; part += kLaneBytes)
      store_past(dst + i + part, load<V>(src + i + part));
  }
  for (; i + kLaneBytes <= bytes; i += kLaneBytes) store_past(dst + i, load<V>(src + i));
  if (i < bytes) memcpy(dst + i, src + i, static_cast<size_t>(bytes - i));
}

void rows(const CopyBlock& block) noexcept {
  const int64_t bytes = block.inner.extent * block.itemsize;
  const bool stream = block.stream && bytes >= kShortestStream;
  if (!stream && bytes >= kVectorBytes) {
    if (bytes <= kLongestRun && bytes * block.outer.extent > kFirstCache)
      return short_rows<true>(block, bytes);
    if (bytes <= kShortRun) return short_rows<false>(block, bytes);
  }
  for (int64_t i = 0; i < block.outer.extent; ++i) {
    char* dst = block.dst + i * block.outer.dst_stride_bytes;
    const char* src = block.src + i * block.outer.src_stride_bytes;
    if (stream)
      stream_run(dst, src, bytes);
    else
      memcpy(dst, src, static_cast<size_t>(bytes));
  }
  if (stream) end_stream();
}

}  // namespace
}  // namespace dlbridge::DLBRIDGE_KERNELS
