// SPDX-License-Identifier: Apache-2.0
// Every way to the host, to the device and between two tensors on it, in every layout, data type,
// alignment, size and kind of stream.
#include "contract_test.h"

namespace dlbridge::contract {
namespace {

class StagingByEveryWay : public ContractOf<Way> {
 protected:
  void check(const Spec& source, const Spec& target) {
    check_way(backend(), GetParam(), source, target, stream());
  }
  // The layout that is not compact is the device's.
  void check_sides(const Spec& on_device, const Spec& other, Stream stream) {
    const bool to_device = GetParam().to == Side::device;
    check_way(backend(), GetParam(), to_device ? other : on_device, to_device ? on_device : other,
              stream);
  }
};

TEST_P(StagingByEveryWay, CopiesEveryLayout) {
  for (const LayoutPair& pair : layout_pairs()) {
    SCOPED_TRACE(pair.name);
    check({.shape = pair.shape, .strides = pair.source},
          {.shape = pair.shape, .strides = pair.target});
    if (HasFailure()) break;
  }
}

TEST_P(StagingByEveryWay, CopiesEveryElementSize) {
  for (const NamedDType& type : dtypes()) {
    for (size_t i = 0; i < layout_pairs().size(); i += 11) {
      const LayoutPair& pair = layout_pairs()[i];
      SCOPED_TRACE(type.dtype.name() + " " + pair.name);
      check({pair.shape, pair.source, type.dtype, type.padded},
            {pair.shape, pair.target, type.dtype, type.padded});
      if (HasFailure()) return;
    }
  }
}

TEST_P(StagingByEveryWay, CopiesPackedBytes) {
  for (const DType dtype : packed_dtypes()) {
    for (const Dims& shape : {Dims{}, Dims{1}, Dims{8}, Dims{13}, Dims{3, 5}, Dims{7, 0}}) {
      SCOPED_TRACE(dtype.name() + " of rank " + std::to_string(shape.size()));
      const Spec spec{.shape = shape, .strides = row_major(shape), .dtype = dtype};
      check(spec, spec);
    }
  }
}

TEST_P(StagingByEveryWay, CopiesMisaligned) {
  const Dims shape{9, 11};
  for (size_t source = 0; source < 18; ++source) {
    const size_t target = source * 7 % 16;
    SCOPED_TRACE("from " + std::to_string(source) + " to " + std::to_string(target));
    for (const Dims& strides : {row_major(shape), reversed(shape, 0, 2)}) {
      check({.shape = shape, .strides = strides, .misalignment = source},
            {.shape = shape, .strides = row_major(shape), .misalignment = target});
      check({.shape = shape, .strides = row_major(shape), .misalignment = source},
            {.shape = shape, .strides = strides, .misalignment = target});
    }
  }
}

// Where the engine changes how it goes about it.
TEST_P(StagingByEveryWay, CopiesEverySize) {
  for (const int64_t around : {64 << 10, 256 << 10, 4 << 20, 16 << 20}) {
    for (const int64_t size : {around - 1, around, around + 1}) {
      if (around == 16 << 20 && size == around) continue;
      SCOPED_TRACE(size);
      const Spec spec{.shape = {size}, .strides = {1}, .dtype = test::kUint8};
      check(spec, spec);
      if (HasFailure()) return;
    }
  }
}

TEST_P(StagingByEveryWay, CopiesManyPieces) {
  for (const Dims& shape : {Dims{331, 211, 7}, Dims{1500, 1500}}) {
    SCOPED_TRACE(shape.size());
    check_sides({.shape = shape, .strides = reversed(shape, 1)},
                {.shape = shape, .strides = row_major(shape, 2)}, stream());
  }
}

TEST_P(StagingByEveryWay, OrdersWithEveryStream) {
  const Dims shape{40, 50};
  for (const intptr_t number : {cuda::kLegacyStream, cuda::kPerThreadStream, cuda::kNoSync}) {
    SCOPED_TRACE(number);
    for (const Dims& strides : {row_major(shape), reversed(shape)}) {
      check_sides({.shape = shape, .strides = strides},
                  {.shape = shape, .strides = row_major(shape)}, numbered(number));
    }
  }
}

const auto kWayName = [](const auto& given) { return std::string(given.param.name); };
INSTANTIATE_TEST_SUITE_P(ToHost, StagingByEveryWay, testing::ValuesIn(ways_to(Side::host)),
                         kWayName);
INSTANTIATE_TEST_SUITE_P(ToDevice, StagingByEveryWay, testing::ValuesIn(ways_to(Side::device)),
                         kWayName);
INSTANTIATE_TEST_SUITE_P(OnDevice, StagingByEveryWay, testing::ValuesIn(ways_to(Side::on_device)),
                         kWayName);

class StagingOfManyMegabytes : public Contract {};

// More than the rings hold at once, in both directions: half of 80 MiB.
TEST_F(StagingOfManyMegabytes, CopiesStrided) {
  const Spec every_second{.shape = {10, 1 << 20}, .strides = {1 << 21, 2}, .dtype = test::kFloat32};
  const Spec compact{.shape = {10, 1 << 20}, .strides = {1 << 20, 1}, .dtype = test::kFloat32};
  for (const Way& way :
       {Way{"out", Side::host, Way::into}, Way{"fresh_async", Side::host, Way::fresh, Way::async}})
    check_way(backend(), way, every_second, compact, stream());
  for (const Way& way : {Way{"stage", Side::device, Way::into},
                         Way{"async_pinned", Side::device, Way::into, Way::async | Way::pinned}})
    check_way(backend(), way, compact, every_second, stream());
}

}  // namespace
}  // namespace dlbridge::contract
