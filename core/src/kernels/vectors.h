// SPDX-License-Identifier: Apache-2.0
// Vectors of GCC and Clang, so that one text serves every architecture; for the kernels beside it.
// Nothing here may be an inline function of another header: the linker could keep the copy that
// needs the larger instruction set.
#pragma once

#include <string.h>

#include "kernels.h"

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
constexpr int64_t kFirstCache = 32 * 1024;

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

// Writes 16 bytes at a multiple of 16 past the caches, and ends a run of such writes.
#if defined(__x86_64__)
template <typename V>
[[gnu::always_inline]] inline void store_past(char* to, const V& value) noexcept {
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), reinterpret_cast<__m128i>(value));
}
[[maybe_unused]] void end_stream() noexcept { _mm_sfence(); }
#else
template <typename V>
[[gnu::always_inline]] inline void store_past(char* to, const V& value) noexcept {
  store(to, value);
}
[[maybe_unused]] void end_stream() noexcept {}
#endif

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

template <int kSize>
[[gnu::always_inline]] inline void copy_element(char* dst, const char* src, int64_t size) noexcept {
  memcpy(dst, src, kSize > 0 ? static_cast<size_t>(kSize) : static_cast<size_t>(size));
}

}  // namespace
}  // namespace dlbridge::DLBRIDGE_KERNELS
