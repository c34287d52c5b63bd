// SPDX-License-Identifier: Apache-2.0
// The kernels of copy_kernels.h, compiled once for each instruction set by a file that defines
// DLBRIDGE_KERNELS (a namespace) and DLBRIDGE_LANES (16-byte lanes in a vector). Vectors are those
// of GCC and Clang, so that one text serves every architecture. Nothing here may be an inline
// function of another header: the linker could keep the copy that needs the larger instruction set.
#include <string.h>

#include "copy_kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace dlbridge::DLBRIDGE_KERNELS {
namespace {

// Before a loop over the vectors of an array: they stay in registers.
#if defined(__clang__)
#define DLBRIDGE_UNROLL _Pragma("unroll")
#else
#define DLBRIDGE_UNROLL _Pragma("GCC unroll 16")
#endif

constexpr int kLanes = DLBRIDGE_LANES;
constexpr int kLaneBytes = 16;
constexpr int kVectorBytes = kLanes * kLaneBytes;
constexpr int kCacheLine = 64;
// Bytes of the shortest row that is written past the caches.
constexpr int64_t kShortestStream = 2048;
// Bytes of the longest rows that are copied without a call of memcpy: where all of them fit the
// first-level cache, and where they do not.
constexpr int64_t kShortRun = 512;
constexpr int64_t kLongestRun = 4096;
constexpr int64_t kFirstCache = 32 * 1024;
// Lines at multiples of this stride compete for the same places of the first-level cache.
constexpr int64_t kLikeStride = 4096;
// Elements along each side of a tile of element-wise copies.
constexpr int64_t kTile = 32;

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t magnitude(int64_t a) { return a < 0 ? -a : a; }

template <int kSize>
struct Bits;
template <>
struct Bits<1> {
  using Type = uint8_t;
};
template <>
struct Bits<2> {
  using Type = uint16_t;
};
template <>
struct Bits<4> {
  using Type = uint32_t;
};
template <>
struct Bits<8> {
  using Type = uint64_t;
};

template <int kSize, int kBytes>
struct VectorOf {
  using Type __attribute__((vector_size(kBytes))) = typename Bits<kSize>::Type;
};
template <int kSize, int kBytes = kLaneBytes>
using Vector = typename VectorOf<kSize, kBytes>::Type;

// Any address, any type behind it.
template <typename Value>
struct Unaligned {
  using Type [[gnu::aligned(1), gnu::may_alias]] = Value;
};
template <typename Value>
[[gnu::always_inline]] inline Value load(const char* from) noexcept {
  return *reinterpret_cast<const typename Unaligned<Value>::Type*>(from);
}
template <typename Value>
[[gnu::always_inline]] inline void store(char* to, const Value& value) noexcept {
  *reinterpret_cast<typename Unaligned<Value>::Type*>(to) = value;
}

template <int... kIndex>
struct Indices {};
template <int kCount, int... kIndex>
struct MakeIndices : MakeIndices<kCount - 1, kCount - 1, kIndex...> {};
template <int... kIndex>
struct MakeIndices<0, kIndex...> {
  using Type = Indices<kIndex...>;
};
template <int kCount>
using IndicesTo = typename MakeIndices<kCount>::Type;

// Applies Mask::at(i) for each i as the constant indices of a shuffle of two vectors.
template <typename Mask, typename V, int... kIndex>
[[gnu::always_inline]] inline V shuffle(V a, V b, Indices<kIndex...>) noexcept {
  return __builtin_shufflevector(a, b, Mask::at(kIndex)...);
}
template <typename Mask, int kCount, typename V>
[[gnu::always_inline]] inline V shuffle(V a, V b) noexcept {
  return shuffle<Mask>(a, b, IndicesTo<kCount>());
}

// ---- Rows

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

#if defined(__x86_64__)
// Writes past the caches: the destination's lines are not read first.
void stream_run(char* dst, const char* src, int64_t bytes) noexcept {
  const int64_t head =
      smaller(bytes, static_cast<int64_t>(-reinterpret_cast<uintptr_t>(dst) & (kCacheLine - 1)));
  memcpy(dst, src, static_cast<size_t>(head));
  int64_t i = head;
  for (; i + kCacheLine <= bytes; i += kCacheLine) {
    DLBRIDGE_UNROLL
    for (int part = 0; part < kCacheLine; part += kVectorBytes) {
#if defined(__AVX2__)
      _mm256_stream_si256(reinterpret_cast<__m256i*>(dst + i + part),
                          load<__m256i>(src + i + part));
#else
      _mm_stream_si128(reinterpret_cast<__m128i*>(dst + i + part), load<__m128i>(src + i + part));
#endif
    }
  }
  memcpy(dst + i, src + i, static_cast<size_t>(bytes - i));
}
void end_stream() noexcept { _mm_sfence(); }
#else
void stream_run(char* dst, const char* src, int64_t bytes) noexcept {
  memcpy(dst, src, static_cast<size_t>(bytes));
}
void end_stream() noexcept {}
#endif

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

// ---- Elements of any size and stride

template <int kSize>
[[gnu::always_inline]] inline void copy_element(char* dst, const char* src, int64_t size) noexcept {
  memcpy(dst, src, kSize > 0 ? static_cast<size_t>(kSize) : static_cast<size_t>(size));
}

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

// ---- One element over and over

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

// ---- Reversed rows

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

// Item `kPhase` of each of the kCount groups of kGroup items that kGroup vectors hold. The vectors
// are joined from left to right; a mask takes from the joined part what is final in it.
template <int kCount, int kGroup, int kPhase, int kNext>
struct Pick {
  // Result position i comes from vector source(i), element element(i).
  static constexpr int source(int i) { return (i * kGroup + kPhase) / kCount; }
  static constexpr int element(int i) { return (i * kGroup + kPhase) % kCount; }
  // kNext == 1 joins vectors 0 and 1; kNext > 1 joins what is joined already and vector kNext.
  static constexpr int at(int i) {
    if (source(i) == kNext) return kCount + element(i);
    if (source(i) > kNext) return kNext == 1 ? 0 : i;
    return kNext == 1 ? element(i) : i;
  }
};
template <int kCount, int kGroup, int kPhase, typename V>
[[gnu::always_inline]] inline V pick(const V* v) noexcept {
  V out = shuffle<Pick<kCount, kGroup, kPhase, 1>, kCount>(v[0], v[1]);
  if constexpr (kGroup > 2) out = shuffle<Pick<kCount, kGroup, kPhase, 2>, kCount>(out, v[2]);
  if constexpr (kGroup > 3) out = shuffle<Pick<kCount, kGroup, kPhase, 3>, kCount>(out, v[3]);
  return out;
}

template <int kSize, int kGroup>
void stepped(const CopyBlock& block) noexcept {
  using V = Vector<kSize>;
  constexpr int kCount = kLaneBytes / kSize;
  constexpr int64_t kStep = kSize * kGroup;
  const int64_t n = block.inner.extent;
  const int64_t step = block.inner.src_stride_bytes;
  for (int64_t row = 0; row < block.outer.extent; ++row) {
    char* dst = block.dst + row * block.outer.dst_stride_bytes;
    const char* src = block.src + row * block.outer.src_stride_bytes;
    int64_t i = 0;
    V v[kGroup];
    // One element is left over, so that the items between are those of the source.
    if (step > 0) {
      for (; i + kCount < n; i += kCount) {
        DLBRIDGE_UNROLL
        for (int k = 0; k < kGroup; ++k) v[k] = load<V>(src + i * kStep + k * kLaneBytes);
        store(dst + i * kSize, pick<kCount, kGroup, 0>(v));
      }
    } else {
      for (; i + kCount < n; i += kCount) {
        const char* from = src - (i + kCount) * kStep + kSize;
        DLBRIDGE_UNROLL
        for (int k = 0; k < kGroup; ++k) v[k] = load<V>(from + k * kLaneBytes);
        store(dst + i * kSize, backwards<V, kCount>(pick<kCount, kGroup, kGroup - 1>(v)));
      }
    }
    for (; i < n; ++i) copy_element<kSize>(dst + i * kSize, src + i * step, kSize);
  }
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
  char* dst = block.dst;
  int64_t i = 0;
  V v[kGroup];
  const auto put = [&](int64_t at, int64_t to, V picked) {
    store(dst + to * plane + at * kSize, picked);
  };
  if (forwards) {
    for (; i + kCount <= n; i += kCount) {
      DLBRIDGE_UNROLL
      for (int k = 0; k < kGroup; ++k) v[k] = load<V>(block.src + i * kStep + k * kLaneBytes);
      put(i, 0, pick<kCount, kGroup, 0>(v));
      put(i, 1, pick<kCount, kGroup, 1>(v));
      if constexpr (kGroup > 2) put(i, 2, pick<kCount, kGroup, 2>(v));
      if constexpr (kGroup > 3) put(i, 3, pick<kCount, kGroup, 3>(v));
    }
  } else {
    for (; i + kCount <= n; i += kCount) {
      const char* from = block.src - (i + kCount - 1) * kStep;
      DLBRIDGE_UNROLL
      for (int k = 0; k < kGroup; ++k) v[k] = load<V>(from + k * kLaneBytes);
      put(i, 0, backwards<V, kCount>(pick<kCount, kGroup, 0>(v)));
      put(i, 1, backwards<V, kCount>(pick<kCount, kGroup, 1>(v)));
      if constexpr (kGroup > 2) put(i, 2, backwards<V, kCount>(pick<kCount, kGroup, 2>(v)));
      if constexpr (kGroup > 3) put(i, 3, backwards<V, kCount>(pick<kCount, kGroup, 3>(v)));
    }
  }
  for (; i < n; ++i) {
    DLBRIDGE_UNROLL
    for (int k = 0; k < kGroup; ++k)
      copy_element<kSize>(dst + k * plane + i * kSize, block.src + i * step + k * kSize, kSize);
  }
}

// Vector kOut of the kGroup vectors that hold the items of kGroup planes side by side.
template <int kCount, int kGroup, int kOut, int kNext>
struct Weave {
  static constexpr int source(int i) { return (kOut * kCount + i) % kGroup; }
  static constexpr int element(int i) { return (kOut * kCount + i) / kGroup; }
  static constexpr int at(int i) {
    if (source(i) == kNext) return kCount + element(i);
    if (source(i) > kNext) return kNext == 1 ? 0 : i;
    return kNext == 1 ? element(i) : i;
  }
};
template <int kCount, int kGroup, int kOut, typename V>
[[gnu::always_inline]] inline V weave(const V* v) noexcept {
  V out = shuffle<Weave<kCount, kGroup, kOut, 1>, kCount>(v[0], v[1]);
  if constexpr (kGroup > 2) out = shuffle<Weave<kCount, kGroup, kOut, 2>, kCount>(out, v[2]);
  if constexpr (kGroup > 3) out = shuffle<Weave<kCount, kGroup, kOut, 3>, kCount>(out, v[3]);
  return out;
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
  for (; i + kCount <= n; i += kCount) {
    const char* from = forwards ? block.src + i * kSize : block.src - (i + kCount - 1) * kSize;
    DLBRIDGE_UNROLL
    for (int k = 0; k < kGroup; ++k) {
      v[k] = load<V>(from + k * plane);
      if (!forwards) v[k] = backwards<V, kCount>(v[k]);
    }
    char* to = block.dst + i * kStep;
    store(to, weave<kCount, kGroup, 0>(v));
    store(to + kLaneBytes, weave<kCount, kGroup, 1>(v));
    if constexpr (kGroup > 2) store(to + 2 * kLaneBytes, weave<kCount, kGroup, 2>(v));
    if constexpr (kGroup > 3) store(to + 3 * kLaneBytes, weave<kCount, kGroup, 3>(v));
  }
  for (; i < n; ++i) {
    DLBRIDGE_UNROLL
    for (int k = 0; k < kGroup; ++k) {
      copy_element<kSize>(block.dst + i * kStep + k * kSize, block.src + i * step + k * plane,
                          kSize);
    }
  }
}

// ---- Transposition

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

#include "cast_kernels_body.h"

namespace dlbridge::DLBRIDGE_KERNELS {

#define DLBRIDGE_BY_SIZE(kernel) {kernel<1>, kernel<2>, kernel<4>, kernel<8>}
#define DLBRIDGE_BY_GROUP(kernel, size) {kernel<size, 2>, kernel<size, 3>, kernel<size, 4>}
#define DLBRIDGE_BY_SIZE_AND_GROUP(kernel)                                                   \
  {DLBRIDGE_BY_GROUP(kernel, 1), DLBRIDGE_BY_GROUP(kernel, 2), DLBRIDGE_BY_GROUP(kernel, 4), \
   DLBRIDGE_BY_GROUP(kernel, 8)}

extern const CopyKernels kernels;
const CopyKernels kernels = {rows,
                             DLBRIDGE_BY_SIZE(repeated),
                             DLBRIDGE_BY_SIZE(reversed),
                             DLBRIDGE_BY_SIZE_AND_GROUP(stepped),
                             DLBRIDGE_BY_SIZE(transposed),
                             DLBRIDGE_BY_SIZE_AND_GROUP(split),
                             DLBRIDGE_BY_SIZE_AND_GROUP(joined),
                             any,
                             converter};

}  // namespace dlbridge::DLBRIDGE_KERNELS
