// SPDX-License-Identifier: Apache-2.0
// DType: names and parsing of every type in DLPack's tables, sizes below a byte, and unknown values
// that survive.
#include "dlbridge/dtype.h"

#include <gtest/gtest.h>

namespace dlbridge {
namespace {

struct Row {
  const char* name;
  int code;
  int bits;
  int lanes;
  int64_t itemsize;
  bool subbyte;
};

void PrintTo(const Row& row, std::ostream* out) { *out << row.name; }

// Codes as dlpack.h numbers them, written out again.
constexpr Row kRows[] = {
    {"bool", 6, 8, 1, 1, false},
    {"int8", 0, 8, 1, 1, false},
    {"int16", 0, 16, 1, 2, false},
    {"int32", 0, 32, 1, 4, false},
    {"int64", 0, 64, 1, 8, false},
    {"uint8", 1, 8, 1, 1, false},
    {"uint16", 1, 16, 1, 2, false},
    {"uint32", 1, 32, 1, 4, false},
    {"uint64", 1, 64, 1, 8, false},
    {"float16", 2, 16, 1, 2, false},
    {"float32", 2, 32, 1, 4, false},
    {"float64", 2, 64, 1, 8, false},
    {"bfloat16", 4, 16, 1, 2, false},
    {"complex32", 5, 32, 1, 4, false},
    {"complex64", 5, 64, 1, 8, false},
    {"complex128", 5, 128, 1, 16, false},
    {"float8_e3m4", 7, 8, 1, 1, false},
    {"float8_e4m3", 8, 8, 1, 1, false},
    {"float8_e4m3b11fnuz", 9, 8, 1, 1, false},
    {"float8_e4m3fn", 10, 8, 1, 1, false},
    {"float8_e4m3fnuz", 11, 8, 1, 1, false},
    {"float8_e5m2", 12, 8, 1, 1, false},
    {"float8_e5m2fnuz", 13, 8, 1, 1, false},
    {"float8_e8m0fnu", 14, 8, 1, 1, false},
    {"float6_e2m3fn", 15, 6, 1, 1, true},
    {"float6_e3m2fn", 16, 6, 1, 1, true},
    {"float4_e2m1fn", 17, 4, 1, 1, true},
    {"float4_e2m1fn_x2", 17, 4, 2, 1, false},
    {"int1", 0, 1, 1, 1, true},
    {"int2", 0, 2, 1, 1, true},
    {"int4", 0, 4, 1, 1, true},
    {"uint1", 1, 1, 1, 1, true},
    {"uint2", 1, 2, 1, 1, true},
    {"uint4", 1, 4, 1, 1, true},
};

class DTypeTable : public testing::TestWithParam<Row> {
 protected:
  static DType type() {
    const Row& row = GetParam();
    return DLDataType{static_cast<uint8_t>(row.code), static_cast<uint8_t>(row.bits),
                      static_cast<uint16_t>(row.lanes)};
  }
};

TEST_P(DTypeTable, NamesAndParses) {
  EXPECT_TRUE(type().is_known());
  EXPECT_EQ(type().name(), GetParam().name);
  const auto parsed = DType::parse(GetParam().name);
  ASSERT_TRUE(parsed.has_value());
  EXPECT_TRUE(*parsed == type());
}

TEST_P(DTypeTable, CountsItsBytes) {
  EXPECT_EQ(type().itemsize(), GetParam().itemsize);
  EXPECT_EQ(type().item_bits(), GetParam().bits * GetParam().lanes);
  EXPECT_EQ(type().is_subbyte(), GetParam().subbyte);
}

INSTANTIATE_TEST_SUITE_P(All, DTypeTable, testing::ValuesIn(kRows),
                         [](const auto& row_info) { return std::string(row_info.param.name); });

// Rule: 9
TEST(DType, PrintsUnknownCodes) {
  const DType unknown = DLDataType{200, 8, 1};
  EXPECT_FALSE(unknown.is_known());
  EXPECT_EQ(unknown.name(), "code=200,bits=8,lanes=1");
  const DLDataType back = unknown;
  EXPECT_EQ(back.code, 200);
}

TEST(DType, OfTypesOfCpp) {
  EXPECT_EQ(dtype_of<bool>().name(), "bool");
  EXPECT_EQ(dtype_of<int8_t>().name(), "int8");
  EXPECT_EQ(dtype_of<uint16_t>().name(), "uint16");
  EXPECT_EQ(dtype_of<long long>().name(), "int64");
  EXPECT_EQ(dtype_of<float>().name(), "float32");
  EXPECT_EQ(dtype_of<double>().name(), "float64");
  EXPECT_EQ(dtype_of<std::complex<float>>().name(), "complex64");
}

TEST(DType, ComparesAllFields) {
  const DType base{TypeCode::float_, 32};
  EXPECT_TRUE(base == DType(DLDataType{2, 32, 1}));
  EXPECT_FALSE(base == DType(DLDataType{0, 32, 1}));
  EXPECT_FALSE(base == DType(DLDataType{2, 64, 1}));
  EXPECT_FALSE(base == DType(DLDataType{2, 32, 2}));
}

TEST(DType, CountsWidestBits) {
  EXPECT_EQ(DType(DLDataType{0, 255, 65535}).item_bits(), int64_t{255} * 65535);
}

TEST(DType, ParsesNothingElse) {
  for (const char* text : {"", "float", "Float32", "float32 ", "code=200,bits=8,lanes=1"})
    EXPECT_FALSE(DType::parse(text).has_value()) << text;
}

}  // namespace
}  // namespace dlbridge
