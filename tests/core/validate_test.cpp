// SPDX-License-Identifier: Apache-2.0
// Foreign descriptors: one table of hostile ones with the code each must get, and what a good one
// is read as.
#include "dlbridge/validate.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string_view>

#include "dlbridge/layout.h"
#include "dlbridge/managed_tensor.h"
#include "dlbridge/plan.h"
#include "errors.h"
#include "producer.h"
#include "traits.h"

namespace dlbridge {
namespace {

using test::error_of;
using test::LegacyProducer;
using test::VersionedProducer;

template <typename Managed>
Loan described(test::Producer<Managed>& producer) {
  Loan loan;
  describe_managed(producer.get(), loan);
  return loan;
}

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kMin = std::numeric_limits<int64_t>::min();

void* at(uint64_t address) { return reinterpret_cast<void*>(address); }

struct Hostile {
  const char* name;
  ErrorCode code;
  const char* field;
  std::function<void(VersionedProducer&)> spoil;
};

void PrintTo(const Hostile& row, std::ostream* out) { *out << row.name; }

// Shorthand for a row that gives the tensor another layout.
std::function<void(VersionedProducer&)> layout(std::vector<int64_t> shape,
                                               std::vector<int64_t> strides) {
  return [=](VersionedProducer& p) { p.set_layout(shape, strides); };
}

std::function<void(VersionedProducer&)> dtype(int code, int bits, int lanes) {
  return [=](VersionedProducer& p) {
    p.tensor().dtype = {static_cast<uint8_t>(code), static_cast<uint8_t>(bits),
                        static_cast<uint16_t>(lanes)};
  };
}

std::function<void(VersionedProducer&)> device(int type, int id) {
  return [=](VersionedProducer& p) { p.tensor().device = {static_cast<DLDeviceType>(type), id}; };
}

const std::vector<Hostile>& hostile_descriptors() {
  using enum ErrorCode;
  using P = VersionedProducer;
  static const std::vector<Hostile> rows = {
      {"NdimMinusOne", invalid_ndim, "ndim", [](P& p) { p.tensor().ndim = -1; }},
      {"NdimMinimum", invalid_ndim, "ndim", [](P& p) { p.tensor().ndim = INT32_MIN; }},
      {"NdimSixtyFive", invalid_ndim, "ndim", [](P& p) { p.tensor().ndim = 65; }},
      {"NdimMaximum", invalid_ndim, "ndim", [](P& p) { p.tensor().ndim = INT32_MAX; }},
      {"NdimOutOfRangeBeatsNullShape", invalid_ndim, "ndim",
       [](P& p) {
         p.tensor().ndim = 1000;
         p.tensor().shape = nullptr;
       }},
      {"ShapeNull", null_shape, "shape", [](P& p) { p.tensor().shape = nullptr; }},
      {"ExtentMinusOne", negative_extent, "shape", layout({2, -1}, {3, 1})},
      {"ExtentMinimum", negative_extent, "shape", layout({kMin, 1}, {1, 1})},
      {"ExtentNegativeBesideZero", negative_extent, "shape", layout({0, -3}, {1, 1})},
      {"ProductOverflows", extent_overflow, "shape", layout({kMax, 2}, {1, 1})},
      {"ProductWrapsToZero", extent_overflow, "shape",
       layout({int64_t{1} << 32, int64_t{1} << 32}, {1, 1})},
      {"ProductWrapsToASmallNumber", extent_overflow, "shape",
       layout({(int64_t{1} << 32) + 1, (int64_t{1} << 32) + 1}, {0, 0})},
      {"BytesOverflow", extent_overflow, "shape", layout({kMax / 4 + 1}, {0})},
      {"EmptyOfOneExtentTooMany", extent_overflow, "shape", layout({kMax / 4 + 1, 0}, {1, 1})},
      {"EmptyWithExtentsThatOverflow", extent_overflow, "shape",
       layout({0, kMax, kMax}, {1, 1, 1})},
      {"EmptyLastWithExtentsThatOverflow", extent_overflow, "shape",
       layout({kMax, kMax, 0}, {1, 1, 1})},
      {"EmptyWithExtentsThatOverflowAndNoStrides", extent_overflow, "shape",
       [](P& p) {
         p.set_layout({kMax, kMax, 0}, {1, 1, 1});
         p.tensor().strides = nullptr;
       }},
      {"StrideTimesItemsizeOverflows", stride_overflow, "strides", layout({2}, {kMax})},
      {"StrideTimesItemsizeUnderflows", stride_overflow, "strides", layout({2}, {kMin})},
      {"StrideTimesExtentOverflows", stride_overflow, "strides", layout({1 << 20}, {kMax / 8})},
      {"StridesOverflowTogether", stride_overflow, "strides",
       layout({2, 2, 2}, {kMax / 8, kMax / 8, kMax / 8})},
      {"StridesUnderflowTogether", stride_overflow, "strides",
       layout({2, 2, 2}, {-(kMax / 8), -(kMax / 8), -(kMax / 8)})},
      {"DtypeCodeUnknown", unknown_dtype, "dtype", dtype(18, 8, 1)},
      {"DtypeCodeMaximum", unknown_dtype, "dtype", dtype(255, 255, 65535)},
      {"DtypeBitsZero", unknown_dtype, "dtype", dtype(kDLFloat, 0, 1)},
      {"DtypeBitsOdd", unknown_dtype, "dtype", dtype(kDLInt, 24, 1)},
      {"DtypeBitsThree", unknown_dtype, "dtype", dtype(kDLFloat, 3, 1)},
      {"DtypeBitsMaximum", unknown_dtype, "dtype", dtype(kDLFloat, 255, 1)},
      {"DtypeFloatOf80Bits", unknown_dtype, "dtype", dtype(kDLFloat, 80, 1)},
      {"DtypeFloat8OfSixteenBits", unknown_dtype, "dtype", dtype(10, 16, 1)},
      {"DtypeFloat6OfEightBits", unknown_dtype, "dtype", dtype(15, 8, 1)},
      {"DtypeFloat6OfFourLanes", unknown_dtype, "dtype", dtype(15, 6, 4)},
      {"DtypeFloat4OfEightBits", unknown_dtype, "dtype", dtype(17, 8, 1)},
      {"DtypeFloat4OfFourLanes", unknown_dtype, "dtype", dtype(17, 4, 4)},
      {"DtypeBoolOfOneBit", unknown_dtype, "dtype", dtype(kDLBool, 1, 1)},
      {"DtypeLanesZero", unknown_dtype, "dtype", dtype(kDLFloat, 32, 0)},
      {"DtypeLanesTwo", unknown_dtype, "dtype", dtype(kDLFloat, 32, 2)},
      {"DtypeLanesMaximum", unknown_dtype, "dtype", dtype(kDLFloat, 32, 65535)},
      {"DtypeComplexOfTwoLanes", unknown_dtype, "dtype", dtype(kDLComplex, 64, 2)},
      {"DtypeOpaque", unknown_dtype, "dtype", dtype(kDLOpaqueHandle, 64, 1)},
      {"DeviceZero", unknown_device, "device", device(0, 0)},
      {"DeviceInTheGap", unknown_device, "device", device(5, 0)},
      {"DeviceAtTheEndOfTheGap", unknown_device, "device", device(6, 0)},
      {"DeviceMaximum", unknown_device, "device", device(INT32_MAX, 0)},
      {"DeviceMinimum", unknown_device, "device", device(INT32_MIN, 0)},
      {"DeviceBeyondTheTable", unknown_device, "device", device(22, 0)},
      {"DeviceNegative", unknown_device, "device", device(-1, 0)},
      {"DataNull", null_data, "data", [](P& p) { p.tensor().data = nullptr; }},
      {"DataNullWithOffset", null_data, "data",
       [](P& p) {
         p.tensor().data = nullptr;
         p.tensor().byte_offset = 4096;
       }},
      {"DataNullAtRankZero", null_data, "data",
       [](P& p) {
         p.tensor().data = nullptr;
         p.tensor().ndim = 0;
       }},
      {"DataNullOnAnOpaqueDevice", null_data, "data",
       [](P& p) {
         p.tensor().data = nullptr;
         p.tensor().device = {kDLOpenCL, 0};
       }},
      {"OffsetLeavesTheAddressSpace", address_overflow, "byte_offset",
       [](P& p) { p.tensor().byte_offset = UINT64_MAX; }},
      {"EndLeavesTheAddressSpace", address_overflow, "byte_offset",
       [](P& p) { p.tensor().data = at(UINT64_MAX - 7); }},
      {"NegativeStridesReachBelowZero", address_overflow, "byte_offset",
       [](P& p) {
         p.set_layout({5}, {-4096});
         p.tensor().data = at(4096);
       }},
      {"PackedSubbyteWithGaps", packed_subbyte, "strides",
       [](P& p) {
         p.tensor().dtype = {kDLInt, 4, 1};
         p.set_layout({2, 3}, {4, 1});
       }},
      {"PackedSubbyteTransposed", packed_subbyte, "strides",
       [](P& p) {
         p.tensor().dtype = {kDLUInt, 2, 1};
         p.set_layout({2, 3}, {1, 2});
       }},
  };
  return rows;
}

class HostileDescriptor : public testing::TestWithParam<Hostile> {};

TEST_P(HostileDescriptor, IsRefused) {
  VersionedProducer producer;
  GetParam().spoil(producer);
  LegacyProducer legacy;
  legacy.tensor() = producer.tensor();
  Loan loan;
  for (const auto& error : {error_of([&] { describe_managed(producer.get(), loan); }),
                            error_of([&] { describe_managed(legacy.get(), loan); })}) {
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(name(error->code()), name(GetParam().code)) << error->what();
    EXPECT_EQ(error->field(), GetParam().field);
    EXPECT_NE(std::string(error->what()).find("expected"), std::string::npos) << error->what();
  }
  EXPECT_FALSE(loan.owns_memory());
  EXPECT_EQ(legacy.deletions(), 0);
  VersionedProducer good;  // the loan stays usable
  describe_managed(good.get(), loan);
  EXPECT_EQ(loan.view().ndim, 2);
  EXPECT_EQ(loan.view().data, good.values());
}

TEST_P(HostileDescriptor, IsReleasedOnce) {
  VersionedProducer producer;
  GetParam().spoil(producer);
  {
    ManagedTensor tensor = ManagedTensor::adopt(producer.get());
    EXPECT_THROW(std::move(tensor).to_loan(), Error);
    EXPECT_EQ(tensor.get(), producer.get());
    EXPECT_EQ(producer.deletions(), 0);
  }
  EXPECT_EQ(producer.deletions(), 1);
}

INSTANTIATE_TEST_SUITE_P(All, HostileDescriptor, testing::ValuesIn(hostile_descriptors()),
                         [](const auto& row_info) { return std::string(row_info.param.name); });

struct Tolerated {
  const char* name;
  std::function<void(VersionedProducer&)> change;
};

void PrintTo(const Tolerated& row, std::ostream* out) { *out << row.name; }

// Odd, but within the rules.
const std::vector<Tolerated>& tolerated_descriptors() {
  using P = VersionedProducer;
  static const std::vector<Tolerated> rows = {
      {"RankZeroWithoutShape",
       [](P& p) { p.tensor().ndim = 0, p.tensor().shape = p.tensor().strides = nullptr; }},
      {"EmptyWithNullData",
       [](P& p) {
         p.set_layout({0, 3}, {3, 1});
         p.tensor().data = nullptr;
       }},
      {"EmptyWithAbsurdStrides", layout({0, 3}, {kMax, kMin})},
      {"EmptyLastWithAbsurdStrides", layout({3, 0}, {kMin, kMax})},
      {"EmptyWithLargeExtents", layout({0, 1 << 20, 1 << 20}, {1, 1, 1})},
      {"EmptyWithTheLargestExtents", layout({kMax / 4, 0}, {1, 1})},
      {"EmptyLastWithLargeExtentsAndNoStrides",
       [](P& p) {
         p.set_layout({1 << 20, 1 << 20, 0}, {1, 1, 1});
         p.tensor().strides = nullptr;
       }},
      {"SizeOneWithAbsurdStrides", layout({1, 3}, {kMax, 1})},
      {"SizeOneWithMinimumStride", layout({1, 3}, {kMin, 1})},
      {"BroadcastAcrossHugeExtents", layout({kMax / 4}, {0})},
      {"RankSixtyFour",
       [](P& p) { p.set_layout(std::vector<int64_t>(64, 1), std::vector<int64_t>(64, 1)); }},
      {"HighestUsableAddress",
       [](P& p) { p.tensor().data = at(UINT64_MAX - 24), p.set_layout({2, 3}, {3, 1}); }},
      {"NegativeStridesDownToZero",
       [](P& p) {
         p.set_layout({5}, {-1024});
         p.tensor().data = at(4 * 4096);
       }},
      {"PackedSubbyteContiguous", dtype(kDLInt, 4, 1)},
      {"PairOfFloat4", dtype(17, 4, 2)},
      {"EveryYoungDevice", device(21, 0)},
      {"CpuWithAnOddId", device(kDLCPU, 77)},
      {"CpuWithANegativeId", device(kDLCPU, -1)},
      {"MisalignedData", [](P& p) { p.tensor().byte_offset = 1; }},
  };
  return rows;
}

class ToleratedDescriptor : public testing::TestWithParam<Tolerated> {};

// Under UndefinedBehaviorSanitizer this also shows that no step overflows on the way.
TEST_P(ToleratedDescriptor, IsReadAsItIs) {
  VersionedProducer producer;
  GetParam().change(producer);
  const Loan loan = described(producer);
  ASSERT_EQ(loan.view().ndim, producer.tensor().ndim);
  for (int32_t i = 0; i < loan.view().ndim; ++i)
    EXPECT_EQ(loan.view().shape[i], producer.tensor().shape[i]);
}

// What is asked about a validated view must not overflow either.
TEST_P(ToleratedDescriptor, CanBePlanned) {
  VersionedProducer producer;
  GetParam().change(producer);
  const Loan loan = described(producer);
  const TensorView& view = loan.view();
  const Plan decision = plan(view, neutral_traits(), {.copy = CopyMode::if_needed});
  EXPECT_EQ(name(decision.verdict), "share");
  plan(view, test::torch_like(), {.copy = CopyMode::if_needed});
  EXPECT_EQ(name(plan(view, neutral_traits(), {.copy = CopyMode::always}).verdict),
            Device(view.device).is_host() ? "copy" : "refuse");
  EXPECT_GE(view.nbytes(), 0);
  EXPECT_EQ(view.size(), element_count(view.extents()));
  std::vector<int64_t> strides(static_cast<size_t>(view.ndim));
  dense_strides_like(view, strides.data());
  has_partial_overlap(view);
  negative_stride_dimension(view);
  EXPECT_EQ(ranges_intersect(view, view), view.size() != 0);
  EXPECT_EQ(elements_intersect(view, view), view.size() != 0);
}

INSTANTIATE_TEST_SUITE_P(All, ToleratedDescriptor, testing::ValuesIn(tolerated_descriptors()),
                         [](const auto& row_info) { return std::string(row_info.param.name); });

// No memory is that large, but the addresses are all there: refuse it, or decide about it without
// overflow.
TEST(ReadDescriptor, TakesHugeStrides) {
  VersionedProducer producer;
  producer.set_layout({2, 2}, {kMax - 1, -kMax});
  producer.tensor().dtype = {kDLInt, 8, 1};
  producer.tensor().data = at(uint64_t{1} << 63);
  Loan loan;
  const auto error = error_of([&] { describe_managed(producer.get(), loan); });
  if (error.has_value()) {
    EXPECT_EQ(name(error->code()), "stride_overflow");
    return;
  }
  EXPECT_FALSE(has_partial_overlap(loan.view()));
  EXPECT_TRUE(elements_intersect(loan.view(), loan.view()));
}

TEST(ReadDescriptor, AddsByteOffset) {
  VersionedProducer producer;
  producer.set_layout({2}, {1});
  producer.tensor().byte_offset = 8;
  const Loan loan = described(producer);
  EXPECT_EQ(loan.view().data, producer.values() + 2);
  EXPECT_EQ(loan.view().byte_offset, 0u);
}

TEST(ReadDescriptor, KeepsOpaqueOffsets) {
  VersionedProducer producer;
  producer.tensor().device = {kDLOpenCL, 2};
  producer.tensor().byte_offset = 8;
  const Loan loan = described(producer);
  EXPECT_EQ(loan.view().data, producer.values());
  EXPECT_EQ(loan.view().byte_offset, 8u);
  EXPECT_EQ(loan.view().device.device_id, 2);
}

TEST(ReadDescriptor, NullStridesAreCompact) {
  VersionedProducer versioned;
  versioned.tensor().strides = nullptr;
  LegacyProducer legacy;
  legacy.tensor().strides = nullptr;
  const Loan loan = described(versioned);
  EXPECT_EQ(loan.view().strides[0], 3);
  EXPECT_EQ(loan.view().strides[1], 1);
  const Loan other = described(legacy);
  EXPECT_EQ(other.view().strides[0], 3);
}

TEST(ReadDescriptor, CopiesShapeAndStrides) {
  VersionedProducer producer;
  const Loan loan = described(producer);
  producer.set_layout({9, 9}, {9, 9});
  EXPECT_EQ(loan.view().shape[0], 2);
  EXPECT_EQ(loan.view().strides[0], 3);
}

TEST(ReadDescriptor, KeepsNegativeStrides) {
  VersionedProducer producer;
  producer.set_layout({6}, {-1});
  producer.tensor().byte_offset = 20;
  const Loan loan = described(producer);
  EXPECT_EQ(loan.view().data, producer.values() + 5);
  EXPECT_EQ(loan.view().strides[0], -1);
}

TEST(ReadDescriptor, LeavesTheDescriptor) {
  VersionedProducer producer;
  producer.tensor().byte_offset = 4;
  producer.set_layout({1, 2}, {7, 1});
  const DLTensor before = producer.tensor();
  const Loan loan = described(producer);
  EXPECT_EQ(producer.tensor().data, before.data);
  EXPECT_EQ(producer.tensor().byte_offset, 4u);
  EXPECT_EQ(producer.tensor().strides[0], 7);
}

// Of a prototype only shape, dtype and device count.

TEST(ReadPrototype, HasCompactStrides) {
  VersionedProducer producer;
  producer.set_layout({2, 3}, {1, 2});
  producer.tensor().byte_offset = 8;
  producer.tensor().device = {kDLCUDA, 3};
  Loan loan;
  read_prototype(producer.tensor(), loan);
  const TensorView& view = loan.view();
  ASSERT_EQ(view.ndim, 2);
  EXPECT_EQ(view.shape[0], 2);
  EXPECT_EQ(view.shape[1], 3);
  EXPECT_EQ(view.strides[0], 3);
  EXPECT_EQ(view.strides[1], 1);
  EXPECT_EQ(DType(view.dtype), DType(producer.tensor().dtype));
  EXPECT_EQ(Device(view.device), Device(DeviceType::cuda, 3));
  EXPECT_EQ(view.data, nullptr);
  EXPECT_EQ(view.byte_offset, 0u);
  EXPECT_FALSE(loan.owns_memory());
}

TEST(ReadPrototype, IgnoresOtherFields) {
  VersionedProducer producer;
  producer.set_layout({2, 3}, {kMax, kMin});
  producer.tensor().byte_offset = UINT64_MAX;
  Loan loan;
  for (void* data : {static_cast<void*>(nullptr), at(UINT64_MAX)}) {
    producer.tensor().data = data;
    ASSERT_NO_THROW(read_prototype(producer.tensor(), loan));
    EXPECT_EQ(loan.view().data, nullptr);
  }
  producer.tensor().ndim = 0;
  producer.tensor().shape = nullptr;
  read_prototype(producer.tensor(), loan);
  EXPECT_EQ(loan.view().ndim, 0);
}

class PrototypeRefusal : public testing::TestWithParam<Hostile> {};

TEST_P(PrototypeRefusal, NamesTheField) {
  VersionedProducer producer;
  GetParam().spoil(producer);
  producer.tensor().data = nullptr;
  Loan loan;
  const auto error = error_of([&] { read_prototype(producer.tensor(), loan); });
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(name(error->code()), name(GetParam().code)) << error->what();
  EXPECT_EQ(error->field(), GetParam().field);
}

std::vector<Hostile> hostile_prototypes() {
  std::vector<Hostile> rows;
  for (const Hostile& row : hostile_descriptors()) {
    const std::string_view field(row.field);
    if (field == "ndim" || field == "shape" || field == "dtype" || field == "device")
      rows.push_back(row);
  }
  return rows;
}

INSTANTIATE_TEST_SUITE_P(All, PrototypeRefusal, testing::ValuesIn(hostile_prototypes()),
                         [](const auto& row_info) { return std::string(row_info.param.name); });

}  // namespace
}  // namespace dlbridge
