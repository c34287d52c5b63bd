// SPDX-License-Identifier: Apache-2.0
// Torch's scalar types and DLPack's types: the tables of the hot path.
#pragma once

#include <c10/core/ScalarType.h>

#include <array>

#include "dlbridge/plan.h"
#include "torch_versions.h"

namespace dlbridge {

/// A scalar type of torch and its DLPack type.
struct DTypeRow {
  at::ScalarType scalar;
  DType dtype;
};

/// The rows of a type that this torch lacks have Undefined.
inline constexpr std::array kDTypeRows{
    DTypeRow{at::kBool, {TypeCode::boolean, 8}},
    DTypeRow{at::kByte, {TypeCode::uint, 8}},
    DTypeRow{at::kUInt16, {TypeCode::uint, 16}},
    DTypeRow{at::kUInt32, {TypeCode::uint, 32}},
    DTypeRow{at::kUInt64, {TypeCode::uint, 64}},
    DTypeRow{at::kChar, {TypeCode::int_, 8}},
    DTypeRow{at::kShort, {TypeCode::int_, 16}},
    DTypeRow{at::kInt, {TypeCode::int_, 32}},
    DTypeRow{at::kLong, {TypeCode::int_, 64}},
    DTypeRow{at::kHalf, {TypeCode::float_, 16}},
    DTypeRow{at::kFloat, {TypeCode::float_, 32}},
    DTypeRow{at::kDouble, {TypeCode::float_, 64}},
    DTypeRow{at::kBFloat16, {TypeCode::bfloat, 16}},
    DTypeRow{at::kComplexHalf, {TypeCode::complex, 32}},
    DTypeRow{at::kComplexFloat, {TypeCode::complex, 64}},
    DTypeRow{at::kComplexDouble, {TypeCode::complex, 128}},
    DTypeRow{at::kFloat8_e5m2, {TypeCode::float8_e5m2, 8}},
    DTypeRow{at::kFloat8_e5m2fnuz, {TypeCode::float8_e5m2fnuz, 8}},
    DTypeRow{at::kFloat8_e4m3fn, {TypeCode::float8_e4m3fn, 8}},
    DTypeRow{at::kFloat8_e4m3fnuz, {TypeCode::float8_e4m3fnuz, 8}},
    DTypeRow{kFloat8E8m0fnu, {TypeCode::float8_e8m0fnu, 8}},
};

inline constexpr auto kScalarTypes = static_cast<size_t>(at::ScalarType::NumOptions);

struct alignas(8) TorchDType {
  DLDataType dtype{};
  bool held = false;
  uint8_t itemsize = 0;
};

inline constexpr auto kByScalar = [] {
  std::array<TorchDType, kScalarTypes> table{};
  for (const DTypeRow& row : kDTypeRows)
    table[static_cast<size_t>(row.scalar)] = {row.dtype, true,
                                              static_cast<uint8_t>(row.dtype.itemsize())};
  table[static_cast<size_t>(kFloat4PairScalar)] = {kFloat4Pair, true, 1};
  table[static_cast<size_t>(at::ScalarType::Undefined)] = {};
  return table;
}();

inline constexpr auto kByDType = [] {
  std::array<at::ScalarType, DTypeSet::kSlots> table{};
  for (auto& scalar : table) scalar = at::ScalarType::Undefined;
  for (const DTypeRow& row : kDTypeRows)
    table[static_cast<size_t>(DTypeSet::slot(row.dtype))] = row.scalar;
  return table;
}();

/// The scalar type for a DLPack type; Undefined where torch has none.
inline at::ScalarType lookup_scalar_type(DLDataType dtype) noexcept {
  const int slot = DTypeSet::slot(dtype);
  if (slot >= 0) [[likely]]
    return kByDType[static_cast<size_t>(slot)];
  return DType(dtype) == kFloat4Pair ? kFloat4PairScalar : at::ScalarType::Undefined;
}

}  // namespace dlbridge
