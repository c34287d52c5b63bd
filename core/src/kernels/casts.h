// SPDX-License-Identifier: Apache-2.0
// Casts of contiguous elements: pairs, and values, whose result every framework agrees on.
#pragma once

#include "vectors.h"

namespace dlbridge::DLBRIDGE_KERNELS {
namespace {

// Names of types; their elements are Stored<>.
struct Bool {};
struct Half {};
struct BFloat {};

template <typename T>
struct StoredAs {
  using Type = T;
};
template <>
struct StoredAs<Bool> {
  using Type = uint8_t;
};
template <>
struct StoredAs<Half> {
  using Type = uint16_t;
};
template <>
struct StoredAs<BFloat> {
  using Type = uint16_t;
};
template <typename T>
using Stored = typename StoredAs<T>::Type;

template <typename A, typename B>
constexpr bool kSame = false;
template <typename A>
constexpr bool kSame<A, A> = true;

template <typename T>
constexpr bool kFloat = kSame<T, float> || kSame<T, double>;
template <typename T>
constexpr bool kInteger = !kFloat<T> && !kSame<T, Bool> && !kSame<T, Half> && !kSame<T, BFloat>;
template <typename T>
constexpr bool kNumber = kFloat<T> || kInteger<T>;

template <typename From, typename To>
[[gnu::always_inline]] inline Stored<To> cast_element(Stored<From> value) noexcept {
  if constexpr (kSame<From, Bool> || kSame<To, Bool>)
    return static_cast<Stored<To>>(value != 0);
  else if constexpr (kSame<From, BFloat>)
    return __builtin_bit_cast(float, static_cast<uint32_t>(value) << 16);
  else
    return static_cast<To>(value);
}

template <typename From, typename To>
bool cast_run(char* dst, const char* src, int64_t count) noexcept {
  auto* __restrict to = reinterpret_cast<typename Unaligned<Stored<To>>::Type*>(dst);
  const auto* __restrict from =
      reinterpret_cast<const typename Unaligned<Stored<From>>::Type*>(src);
  for (int64_t i = 0; i < count; ++i) to[i] = cast_element<From, To>(from[i]);
  return true;
}

// Vector instructions between 64-bit integers and floating point.
#if defined(__AVX512DQ__) || defined(__aarch64__)
constexpr bool kCastsLong = true;
#else
constexpr bool kCastsLong = false;
#endif

// 64-bit integers that fit 32 bits, as most do, are cast as such.
template <typename To>
bool cast_long_run(char* dst, const char* src, int64_t count) noexcept {
  auto* __restrict to = reinterpret_cast<typename Unaligned<To>::Type*>(dst);
  const auto* __restrict from = reinterpret_cast<const typename Unaligned<int64_t>::Type*>(src);
  constexpr int64_t kBlock = 256;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = smaller(count, begin + kBlock);
    uint64_t beyond = 0;
    for (int64_t i = begin; i < end; ++i)
      beyond |= (static_cast<uint64_t>(from[i]) + (uint64_t{1} << 31)) >> 32;
    if (beyond == 0) {
      for (int64_t i = begin; i < end; ++i) to[i] = static_cast<To>(static_cast<int32_t>(from[i]));
    } else {
      for (int64_t i = begin; i < end; ++i) to[i] = static_cast<To>(from[i]);
    }
  }
  return true;
}

// 2 to the power of `exponent`.
template <typename Float>
constexpr Float power(int exponent) {
  return static_cast<Float>(uint64_t{1} << (exponent - 1)) * 2;
}

// Floating point to integer. Returns false at an element that the integer cannot hold, or that is
// no number: C++ does not define that cast, and frameworks differ.
template <typename From, typename To>
bool cast_float_run(char* dst, const char* src, int64_t count) noexcept {
  auto* __restrict to = reinterpret_cast<typename Unaligned<To>::Type*>(dst);
  const auto* __restrict from = reinterpret_cast<const typename Unaligned<From>::Type*>(src);
  using Pattern = typename Bits<sizeof(From)>::Type;
  const auto* patterns = reinterpret_cast<const typename Unaligned<Pattern>::Type*>(src);
  constexpr bool kSigned = static_cast<To>(-1) < To{0};
  constexpr auto kEnd = power<From>(8 * sizeof(To) - kSigned);
  constexpr auto kNarrowEnd = power<From>(31);
  constexpr From kAboveMinusOne = -1 + 1 / power<From>(sizeof(From) == 4 ? 24 : 53);
  constexpr From kLeast = kSigned ? -kEnd : kAboveMinusOne;
  constexpr int64_t kBlock = 1024;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = smaller(count, begin + kBlock);
    // Magnitudes are ordered as their bit patterns are; those of NaN come last.
    constexpr Pattern kMagnitude = kSigned ? ~Pattern{0} >> 1 : ~Pattern{0};
    Pattern largest = 0;
    for (int64_t i = begin; i < end; ++i) {
      const Pattern magnitude = patterns[i] & kMagnitude;
      largest = largest < magnitude ? magnitude : largest;
    }
    const auto all_below = [largest](From past) {
      return largest < __builtin_bit_cast(Pattern, past);
    };
    const auto all_fit = [&] {  // values at the edges, too
      Pattern fit = 1;
      for (int64_t i = begin; i < end; ++i)
        fit &= static_cast<Pattern>(from[i] >= kLeast) & static_cast<Pattern>(from[i] < kEnd);
      return fit != 0;
    };
    // Through 32 bits where they are enough.
    if (!kCastsLong && kEnd > kNarrowEnd && all_below(kNarrowEnd)) {
      for (int64_t i = begin; i < end; ++i) to[i] = static_cast<To>(static_cast<int32_t>(from[i]));
    } else if (all_below(kEnd) || all_fit()) {
      for (int64_t i = begin; i < end; ++i) to[i] = static_cast<To>(from[i]);
    } else {
      return false;
    }
  }
  return true;
}

#if defined(__F16C__)
bool half_to_float(char* dst, const char* src, int64_t count) noexcept {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(reinterpret_cast<float*>(dst) + i,
                     _mm256_cvtph_ps(load<__m128i>(src + 2 * i)));
  for (; i < count; ++i) store(dst + 4 * i, _cvtsh_ss(load<uint16_t>(src + 2 * i)));
  return true;
}
bool float_to_half(char* dst, const char* src, int64_t count) noexcept {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    store(dst + 2 * i,
          _mm256_cvtps_ph(_mm256_loadu_ps(reinterpret_cast<const float*>(src) + i), kNearest));
  }
  for (; i < count; ++i)
    store<uint16_t>(dst + 2 * i, _cvtss_sh(load<float>(src + 4 * i), kNearest));
  return true;
}

// `value` with the precision of a float and, where that drops something, its last bit set: what is
// rounded to half then has been rounded once.
[[gnu::always_inline]] inline float round_to_odd(double value) noexcept {
  constexpr uint64_t kDropped = (uint64_t{1} << 29) - 1;
  const auto bits = __builtin_bit_cast(uint64_t, value);
  const uint64_t carry = ((bits & kDropped) + kDropped) & (kDropped + 1);
  return static_cast<float>(__builtin_bit_cast(double, (bits | carry) & ~kDropped));
}
bool double_to_half(char* dst, const char* src, int64_t count) noexcept {
  const auto* from = reinterpret_cast<const Unaligned<double>::Type*>(src);
  constexpr int64_t kBlock = 256;
  float block[kBlock];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = smaller(kBlock, count - begin);
    for (int64_t i = 0; i < n; ++i) block[i] = round_to_odd(from[begin + i]);
    float_to_half(dst + 2 * begin, reinterpret_cast<const char*>(block), n);
  }
  return true;
}
#endif

template <typename From, typename To>
constexpr Converter converter_of() noexcept {
  if constexpr (kSame<From, int64_t> && kFloat<To> && !kCastsLong) {
    return cast_long_run<To>;
  } else if constexpr (kFloat<From> && kInteger<To>) {
    return cast_float_run<From, To>;
  } else if constexpr (kSame<From, Bool> && (kNumber<To> || kSame<To, Bool>)) {
    return cast_run<From, To>;
  } else if constexpr (kNumber<From> && kSame<To, Bool>) {
    return cast_run<From, To>;
  } else if constexpr ((kInteger<From> && kNumber<To>) || (kFloat<From> && kFloat<To>)) {
    return cast_run<From, To>;
  } else if constexpr (kSame<From, BFloat> && kSame<To, float>) {
    return cast_run<From, To>;
#if defined(__F16C__)
  } else if constexpr (kSame<From, Half> && kSame<To, float>) {
    return half_to_float;
  } else if constexpr (kSame<From, float> && kSame<To, Half>) {
    return float_to_half;
  } else if constexpr (kSame<From, double> && kSame<To, Half>) {
    return double_to_half;
#endif
  } else {
    return nullptr;
  }
}

// Calls f with an object of the C++ type for a DLPack type, or returns null.
template <typename F>
Converter with_type(DLDataType type, F f) noexcept {
  if (type.lanes != 1) return nullptr;
  switch (type.code << 8 | type.bits) {
    case kDLBool << 8 | 8:
      return f(Bool{});
    case kDLInt << 8 | 8:
      return f(int8_t{});
    case kDLInt << 8 | 16:
      return f(int16_t{});
    case kDLInt << 8 | 32:
      return f(int32_t{});
    case kDLInt << 8 | 64:
      return f(int64_t{});
    case kDLUInt << 8 | 8:
      return f(uint8_t{});
    case kDLUInt << 8 | 16:
      return f(uint16_t{});
    case kDLUInt << 8 | 32:
      return f(uint32_t{});
    case kDLUInt << 8 | 64:
      return f(uint64_t{});
    case kDLFloat << 8 | 16:
      return f(Half{});
    case kDLFloat << 8 | 32:
      return f(float{});
    case kDLFloat << 8 | 64:
      return f(double{});
    case kDLBfloat << 8 | 16:
      return f(BFloat{});
    default:
      return nullptr;
  }
}

Converter converter(DLDataType from, DLDataType to) noexcept {
  return with_type(from, [to]<typename From>(From) {
    return with_type(to, []<typename To>(To) { return converter_of<From, To>(); });
  });
}

}  // namespace
}  // namespace dlbridge::DLBRIDGE_KERNELS
