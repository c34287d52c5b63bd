// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/dtype.h"

#include <array>

namespace dlbridge {
namespace {

struct NamedType {
  DType type;
  std::string_view name;
};

// One row a type that DLPack 1.3 defines and some framework uses. Looked up linearly: only names
// and hostile input come here, never the hot path.
constexpr std::array kNamedTypes{
    NamedType{{TypeCode::boolean, 8}, "bool"},
    NamedType{{TypeCode::int_, 8}, "int8"},
    NamedType{{TypeCode::int_, 16}, "int16"},
    NamedType{{TypeCode::int_, 32}, "int32"},
    NamedType{{TypeCode::int_, 64}, "int64"},
    NamedType{{TypeCode::uint, 8}, "uint8"},
    NamedType{{TypeCode::uint, 16}, "uint16"},
    NamedType{{TypeCode::uint, 32}, "uint32"},
    NamedType{{TypeCode::uint, 64}, "uint64"},
    NamedType{{TypeCode::float_, 16}, "float16"},
    NamedType{{TypeCode::float_, 32}, "float32"},
    NamedType{{TypeCode::float_, 64}, "float64"},
    NamedType{{TypeCode::bfloat, 16}, "bfloat16"},
    NamedType{{TypeCode::complex, 32}, "complex32"},
    NamedType{{TypeCode::complex, 64}, "complex64"},
    NamedType{{TypeCode::complex, 128}, "complex128"},
    NamedType{{TypeCode::float8_e3m4, 8}, "float8_e3m4"},
    NamedType{{TypeCode::float8_e4m3, 8}, "float8_e4m3"},
    NamedType{{TypeCode::float8_e4m3b11fnuz, 8}, "float8_e4m3b11fnuz"},
    NamedType{{TypeCode::float8_e4m3fn, 8}, "float8_e4m3fn"},
    NamedType{{TypeCode::float8_e4m3fnuz, 8}, "float8_e4m3fnuz"},
    NamedType{{TypeCode::float8_e5m2, 8}, "float8_e5m2"},
    NamedType{{TypeCode::float8_e5m2fnuz, 8}, "float8_e5m2fnuz"},
    NamedType{{TypeCode::float8_e8m0fnu, 8}, "float8_e8m0fnu"},
    NamedType{{TypeCode::float6_e2m3fn, 6}, "float6_e2m3fn"},
    NamedType{{TypeCode::float6_e3m2fn, 6}, "float6_e3m2fn"},
    NamedType{kFloat4Padded, "float4_e2m1fn"},
    NamedType{kFloat4Pair, "float4_e2m1fn_x2"},
    NamedType{{TypeCode::int_, 1}, "int1"},
    NamedType{{TypeCode::int_, 2}, "int2"},
    NamedType{{TypeCode::int_, 4}, "int4"},
    NamedType{{TypeCode::uint, 1}, "uint1"},
    NamedType{{TypeCode::uint, 2}, "uint2"},
    NamedType{{TypeCode::uint, 4}, "uint4"},
};

}  // namespace

bool DType::is_known() const noexcept {
  for (const NamedType& row : kNamedTypes) {
    if (row.type == *this) return true;
  }
  return false;
}

std::string DType::name() const {
  for (const NamedType& row : kNamedTypes) {
    if (row.type == *this) return std::string(row.name);
  }
  return "code=" + std::to_string(value_.code) + ",bits=" + std::to_string(value_.bits) +
         ",lanes=" + std::to_string(value_.lanes);
}

std::optional<DType> DType::parse(std::string_view name) {
  for (const NamedType& row : kNamedTypes) {
    if (row.name == name) return row.type;
  }
  return std::nullopt;
}

}  // namespace dlbridge
