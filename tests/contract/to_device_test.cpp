// SPDX-License-Identifier: Apache-2.0
// Every way to the device, and between two tensors on it, in every layout, data type, alignment,
// size and kind of stream.
#include "contract_test.h"

namespace dlbridge::contract {
namespace {

class StagingToDevice : public ContractOf<ToDevice> {
 protected:
  void check(const Spec& source, const Spec& target) {
    check_to_device(backend(), GetParam(), source, target, stream());
  }
};

TEST_P(StagingToDevice, CopiesEveryLayout) {
  for (const LayoutPair& pair : layout_pairs()) {
    SCOPED_TRACE(pair.name);
    check({.shape = pair.shape, .strides = pair.source},
          {.shape = pair.shape, .strides = pair.target});
    if (HasFailure()) break;
  }
}

TEST_P(StagingToDevice, CopiesEveryElementSize) {
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

TEST_P(StagingToDevice, CopiesPackedBytes) {
  for (const DType dtype : packed_dtypes()) {
    for (const Dims& shape : {Dims{}, Dims{1}, Dims{8}, Dims{13}, Dims{3, 5}, Dims{7, 0}}) {
      SCOPED_TRACE(dtype.name() + " of rank " + std::to_string(shape.size()));
      const Spec spec{.shape = shape, .strides = row_major(shape), .dtype = dtype};
      check(spec, spec);
    }
  }
}

TEST_P(StagingToDevice, CopiesMisaligned) {
  const Dims shape{9, 11};
  for (size_t source = 0; source < 18; ++source) {
    const size_t target = source * 7 % 16;
    SCOPED_TRACE("from " + std::to_string(source) + " to " + std::to_string(target));
    for (const Dims& strides : {row_major(shape), reversed(shape, 0, 2)}) {
      check({.shape = shape, .strides = row_major(shape), .misalignment = source},
            {.shape = shape, .strides = strides, .misalignment = target});
    }
  }
}

TEST_P(StagingToDevice, CopiesEverySize) {
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

TEST_P(StagingToDevice, CopiesManyPieces) {
  for (const Dims& shape : {Dims{331, 211, 7}, Dims{1500, 1500}}) {
    SCOPED_TRACE(shape.size());
    check({.shape = shape, .strides = row_major(shape, 2)},
          {.shape = shape, .strides = reversed(shape, 1)});
  }
}

TEST_P(StagingToDevice, OrdersWithEveryStream) {
  const Dims shape{40, 50};
  for (const intptr_t number : {cuda::kLegacyStream, cuda::kPerThreadStream, cuda::kNoSync}) {
    SCOPED_TRACE(number);
    const Spec source{.shape = shape, .strides = row_major(shape)};
    for (const Dims& strides : {row_major(shape), reversed(shape)}) {
      check_to_device(backend(), GetParam(), source, {.shape = shape, .strides = strides},
                      numbered(number));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, StagingToDevice, testing::ValuesIn(ways_to_device()), WayName());

// More than the rings hold at once, in both directions: half of 80 MiB.
class StagingOfManyMegabytes : public Contract {
 protected:
  static Spec every_second() {
    return {.shape = {10, 1 << 20}, .strides = {1 << 21, 2}, .dtype = test::kFloat32};
  }
  static Spec compact() {
    return {.shape = {10, 1 << 20}, .strides = {1 << 20, 1}, .dtype = test::kFloat32};
  }
};

TEST_F(StagingOfManyMegabytes, CopiesStridedToHost) {
  check_to_host(backend(), ToHost::out, every_second(), compact(), stream());
  check_to_host(backend(), ToHost::fresh_async, every_second(), compact(), stream());
}

TEST_F(StagingOfManyMegabytes, CopiesToStridedDevice) {
  check_to_device(backend(), ToDevice::stage, compact(), every_second(), stream());
  check_to_device(backend(), ToDevice::async_pinned, compact(), every_second(), stream());
}

class CopyOnDevice : public Contract {};

TEST_F(CopyOnDevice, CopiesEveryLayout) {
  for (const LayoutPair& pair : layout_pairs()) {
    SCOPED_TRACE(pair.name);
    check_on_device(backend(), {.shape = pair.shape, .strides = pair.source},
                    {.shape = pair.shape, .strides = pair.target}, stream());
    if (HasFailure()) break;
  }
}

TEST_F(CopyOnDevice, CopiesEveryElementSize) {
  for (const NamedDType& type : dtypes()) {
    for (size_t i = 0; i < layout_pairs().size(); i += 7) {
      const LayoutPair& pair = layout_pairs()[i];
      SCOPED_TRACE(type.dtype.name() + " " + pair.name);
      check_on_device(backend(), {pair.shape, pair.source, type.dtype, type.padded},
                      {pair.shape, pair.target, type.dtype, type.padded}, stream());
      if (HasFailure()) return;
    }
  }
}

TEST_F(CopyOnDevice, OrdersWithEveryStream) {
  const Dims shape{40, 50};
  for (const intptr_t number : {cuda::kLegacyStream, cuda::kPerThreadStream, cuda::kNoSync}) {
    SCOPED_TRACE(number);
    check_on_device(backend(), {.shape = shape, .strides = reversed(shape)},
                    {.shape = shape, .strides = row_major(shape)}, numbered(number));
  }
}

}  // namespace
}  // namespace dlbridge::contract
