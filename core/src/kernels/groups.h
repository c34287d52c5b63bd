// SPDX-License-Identifier: Apache-2.0
// Rows that run backwards, steps, and planes of pixels.
#pragma once

#include "vectors.h"

namespace dlbridge::DLBRIDGE_KERNELS {
namespace {

template <int kCount>
struct Backwards {
  static constexpr int at(int i) { return kCount - 1 - i; }
};
template <typename V, int kCount>
[[gnu::always_inline]] inline V backwards(V v) noexcept {
  return shuffle<Backwards<kCount>, kCount>(v, v);
}

template <int kSize>
void reversed(const CopyBlock& block) noexcept {
  using V = Vector<kSize, kVectorBytes>;
  constexpr int kCount = kVectorBytes / kSize;
  const int64_t n = block.inner.extent;
  for (int64_t row = 0; row < block.outer.extent; ++row) {
    char* dst = block.dst + row * block.outer.dst_stride_bytes;
    // The lowest address: element n - 1.
    const char* src = block.src + row * block.outer.src_stride_bytes - (n - 1) * kSize;
    const auto vector_at = [&](int64_t i) {
      store(dst + i * kSize, backwards<V, kCount>(load<V>(src + (n - kCount - i) * kSize)));
    };
    if (n < kCount) {
      for (int64_t i = 0; i < n; ++i)
        copy_element<kSize>(dst + i * kSize, src + (n - 1 - i) * kSize, kSize);
      continue;
    }
    int64_t i = 0;
    for (; i + 4 * kCount <= n; i += 4 * kCount) {
      vector_at(i);
      vector_at(i + kCount);
      vector_at(i + 2 * kCount);
      vector_at(i + 3 * kCount);
    }
    for (; i + kCount <= n; i += kCount) vector_at(i);
    if (i < n) vector_at(n - kCount);  // overlaps what was written
  }
}

// ---- Groups of n items: steps, and planes of pixels

// Where element i of a vector that is gathered from kGroup vectors of kCount elements comes from.
// kSplit: item kIndex of each group of kGroup items. Else: vector kIndex of the groups that items
// of kGroup planes make side by side. The vectors are joined from left to right; a mask takes from
// the joined part what is final in it.
template <bool kSplit, int kCount, int kGroup, int kIndex, int kNext>
struct Gather {
  static constexpr int place(int i) { return kSplit ? i * kGroup + kIndex : kIndex * kCount + i; }
  static constexpr int source(int i) { return kSplit ? place(i) / kCount : place(i) % kGroup; }
  static constexpr int element(int i) { return kSplit ? place(i) % kCount : place(i) / kGroup; }
  // kNext == 1 joins vectors 0 and 1; kNext > 1 joins what is joined already and vector kNext.
  static constexpr int at(int i) {
    if (source(i) == kNext) return kCount + element(i);
    if (source(i) > kNext) return kNext == 1 ? 0 : i;
    return kNext == 1 ? element(i) : i;
  }
};
template <bool kSplit, int kCount, int kGroup, int kIndex, typename V>
[[gnu::always_inline]] inline V gather(const V* v) noexcept {
  V out = shuffle<Gather<kSplit, kCount, kGroup, kIndex, 1>, kCount>(v[0], v[1]);
  if constexpr (kGroup > 2)
    out = shuffle<Gather<kSplit, kCount, kGroup, kIndex, 2>, kCount>(out, v[2]);
  if constexpr (kGroup > 3)
    out = shuffle<Gather<kSplit, kCount, kGroup, kIndex, 3>, kCount>(out, v[3]);
  return out;
}
// All kGroup vectors.
template <bool kSplit, int kCount, typename V, int... kIndex>
[[gnu::always_inline]] inline void gather_all(V* out, const V* v, Indices<kIndex...>) noexcept {
  ((out[kIndex] = gather<kSplit, kCount, sizeof...(kIndex), kIndex>(v)), ...);
}

template <int kSize, int kGroup>
void stepped(const CopyBlock& block) noexcept {
  using V = Vector<kSize>;
  constexpr int kCount = kLaneBytes / kSize;
  constexpr int64_t kStep = kSize * kGroup;
  const int64_t n = block.inner.extent;
  const int64_t step = block.inner.src_stride_bytes;
  const bool forwards = step > 0;
  for (int64_t row = 0; row < block.outer.extent; ++row) {
    char* dst = block.dst + row * block.outer.dst_stride_bytes;
    const char* src = block.src + row * block.outer.src_stride_bytes;
    const auto address = reinterpret_cast<uintptr_t>(dst);
    const bool past = block.stream && address % kSize == 0;
    int64_t i = 0;
    if (past) {
      for (; i < n && (address + i * kSize) % kLaneBytes != 0; ++i)
        copy_element<kSize>(dst + i * kSize, src + i * step, kSize);
    }
    V v[kGroup];
    // One element is left over, so that the items between are those of the source.
    for (; i + kCount < n; i += kCount) {
      const char* from = forwards ? src + i * kStep : src - (i + kCount) * kStep + kSize;
      DLBRIDGE_UNROLL
      for (int k = 0; k < kGroup; ++k) v[k] = load<V>(from + k * kLaneBytes);
      const V picked = forwards ? gather<true, kCount, kGroup, 0>(v)
                                : backwards<V, kCount>(gather<true, kCount, kGroup, kGroup - 1>(v));
      if (past)
        store_past(dst + i * kSize, picked);
      else
        store(dst + i * kSize, picked);
    }
    for (; i < n; ++i) copy_element<kSize>(dst + i * kSize, src + i * step, kSize);
  }
  if (block.stream) end_stream();
}

template <int kSize, int kGroup>
void split(const CopyBlock& block) noexcept {
  using V = Vector<kSize>;
  constexpr int kCount = kLaneBytes / kSize;
  constexpr int64_t kStep = kSize * kGroup;
  const int64_t n = block.inner.extent;
  const int64_t step = block.inner.src_stride_bytes;
  const int64_t plane = block.outer.dst_stride_bytes;
  const bool forwards = step > 0;
  int64_t i = 0;
  V v[kGroup];
  V planes[kGroup];
  for (; i + kCount <= n; i += kCount) {
    const char* from = forwards ? block.src + i * kStep : block.src - (i + kCount - 1) * kStep;
    DLBRIDGE_UNROLL
    for (int k = 0; k < kGroup; ++k) v[k] = load<V>(from + k * kLaneBytes);
    gather_all<true, kCount>(planes, v, IndicesTo<kGroup>());
    DLBRIDGE_UNROLL
    for (int k = 0; k < kGroup; ++k) {
      if (!forwards) planes[k] = backwards<V, kCount>(planes[k]);
      store(block.dst + k * plane + i * kSize, planes[k]);
    }
  }
  for (; i < n; ++i) {
    DLBRIDGE_UNROLL
    for (int k = 0; k < kGroup; ++k)
      copy_element<kSize>(block.dst + k * plane + i * kSize, block.src + i * step + k * kSize,
                          kSize);
  }
}

template <int kSize, int kGroup>
void joined(const CopyBlock& block) noexcept {
  using V = Vector<kSize>;
  constexpr int kCount = kLaneBytes / kSize;
  constexpr int64_t kStep = kSize * kGroup;
  const int64_t n = block.outer.extent;
  const int64_t step = block.outer.src_stride_bytes;
  const int64_t plane = block.inner.src_stride_bytes;
  const bool forwards = step > 0;
  int64_t i = 0;
  V v[kGroup];
  V pixels[kGroup];
  for (; i + kCount <= n; i += kCount) {
    const char* from = forwards ? block.src + i * kSize : block.src - (i + kCount - 1) * kSize;
    DLBRIDGE_UNROLL
    for (int k = 0; k < kGroup; ++k) {
      v[k] = load<V>(from + k * plane);
      if (!forwards) v[k] = backwards<V, kCount>(v[k]);
    }
    gather_all<false, kCount>(pixels, v, IndicesTo<kGroup>());
    DLBRIDGE_UNROLL
    for (int k = 0; k < kGroup; ++k) store(block.dst + i * kStep + k * kLaneBytes, pixels[k]);
  }
  for (; i < n; ++i) {
    DLBRIDGE_UNROLL
    for (int k = 0; k < kGroup; ++k)
      copy_element<kSize>(block.dst + i * kStep + k * kSize, block.src + i * step + k * plane,
                          kSize);
  }
}

}  // namespace
}  // namespace dlbridge::DLBRIDGE_KERNELS
