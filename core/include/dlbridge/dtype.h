// SPDX-License-Identifier: Apache-2.0
// DType: a value over DLDataType with names and sizes.
//
// The DLPack minor version does not restrict enum values, and an unknown code can be stored and
// printed. Only name() allocates.
#pragma once

#include <complex>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "dlbridge/dlpack.h"
#include "dlbridge/export.h"

namespace dlbridge {

/// DLPack's dtype codes as numbers, so that an older dlpack.h may be included first.
enum class TypeCode : uint8_t {
  int_ = 0,
  uint = 1,
  float_ = 2,
  opaque = 3,
  bfloat = 4,
  complex = 5,
  boolean = 6,
  float8_e3m4 = 7,
  float8_e4m3 = 8,
  float8_e4m3b11fnuz = 9,
  float8_e4m3fn = 10,
  float8_e4m3fnuz = 11,
  float8_e5m2 = 12,
  float8_e5m2fnuz = 13,
  float8_e8m0fnu = 14,
  float6_e2m3fn = 15,
  float6_e3m2fn = 16,
  float4_e2m1fn = 17,
};

/// The data type of one element: DLPack's code, bits and lanes.
class DLBRIDGE_API DType {
 public:
  constexpr DType(DLDataType value) noexcept : value_(value) {}
  constexpr DType(TypeCode code, int bits, int lanes = 1) noexcept
      : value_{static_cast<uint8_t>(code), static_cast<uint8_t>(bits),
               static_cast<uint16_t>(lanes)} {}

  constexpr operator DLDataType() const noexcept { return value_; }
  constexpr TypeCode code() const noexcept { return static_cast<TypeCode>(value_.code); }
  constexpr int bits() const noexcept { return value_.bits; }
  constexpr int lanes() const noexcept { return value_.lanes; }

  /// Bits of one element, all lanes: 4 for an unpadded float4.
  constexpr int64_t item_bits() const noexcept { return int64_t{value_.bits} * value_.lanes; }

  /// Whether an element is smaller than a byte, or does not fill whole bytes, unless padded.
  constexpr bool is_subbyte() const noexcept { return item_bits() % 8 != 0; }

  /// Bytes from one element to the next, sub-byte elements counted as padded to whole bytes.
  constexpr int64_t itemsize() const noexcept { return (item_bits() + 7) / 8; }

  /// Whether code, bits and lanes are a combination that DLPack's tables define
  /// (docs/reference/rules.md#5).
  bool is_known() const noexcept;

  /// The name NumPy, torch and ml_dtypes would use ("float32", "float8_e4m3fn");
  /// "code=40,bits=8,lanes=1" if unknown.
  std::string name() const;

  /// The type called `name`, if there is one: the inverse of name().
  static std::optional<DType> parse(std::string_view name);

  friend constexpr bool operator==(DType a, DType b) noexcept {
    return a.value_.code == b.value_.code && a.value_.bits == b.value_.bits &&
           a.value_.lanes == b.value_.lanes;
  }

 private:
  DLDataType value_;
};

namespace detail {
template <typename T>
inline constexpr bool kIsComplex = false;
template <typename T>
inline constexpr bool kIsComplex<std::complex<T>> = true;
}  // namespace detail

/// The type of bool, of the integers and of the floating-point and complex types of C++.
template <typename T>
constexpr DType dtype_of() noexcept {
  constexpr int bits = static_cast<int>(8 * sizeof(T));
  if constexpr (std::is_same_v<T, bool>) {
    return {TypeCode::boolean, bits};
  } else if constexpr (detail::kIsComplex<T>) {
    return {TypeCode::complex, bits};
  } else if constexpr (std::is_integral_v<T>) {
    return {std::is_signed_v<T> ? TypeCode::int_ : TypeCode::uint, bits};
  } else {
    static_assert(std::is_floating_point_v<T> && bits <= 64,
                  "expected a number: name the DType instead");
    return {TypeCode::float_, bits};
  }
}

inline constexpr DType kFloat4Padded{TypeCode::float4_e2m1fn, 4, 1};
inline constexpr DType kFloat4Pair{TypeCode::float4_e2m1fn, 4, 2};

}  // namespace dlbridge
