// SPDX-License-Identifier: Apache-2.0
// The kernels' bodies, run on the host, against a naive element loop: every unit, rank, sign of
// stride and odd extent, whole poisoned buffers compared.
#include "pack_on_host.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>

#include "memory.h"
#include "shaped.h"

namespace dlbridge::cuda {
namespace {

using test::for_each_index;
using test::GuardedBuffer;

using Dims = std::vector<int64_t>;

// Two sides of a strided copy, strides in units and index 0 innermost, as the kernels count.
struct Sides {
  Dims extents;
  Dims source_strides;
  Dims target_strides;
};

// One side's memory, the first element placed so that every stride stays inside.
class Side {
 public:
  Side(const Dims& extents, const Dims& strides, int64_t unit)
      : strides_(strides), unit_(unit), buffer_(bytes_of(extents, strides, unit)) {
    for (size_t i = 0; i < extents.size(); ++i)
      first_ += std::max<int64_t>(0, -strides[i]) * std::max<int64_t>(extents[i] - 1, 0) * unit;
  }

  uint8_t* first() { return buffer_.data() + first_; }
  uint8_t* at(const Dims& index) {
    int64_t offset = 0;
    for (size_t i = 0; i < index.size(); ++i) offset += index[i] * strides_[i];
    return first() + offset * unit_;
  }
  GuardedBuffer& buffer() { return buffer_; }

 private:
  static size_t bytes_of(const Dims& extents, const Dims& strides, int64_t unit) {
    int64_t bytes = unit;
    for (size_t i = 0; i < extents.size(); ++i)
      bytes += std::abs(strides[i]) * std::max<int64_t>(extents[i] - 1, 0) * unit;
    return static_cast<size_t>(bytes);
  }

  Dims strides_;
  int64_t unit_;
  GuardedBuffer buffer_;
  int64_t first_ = 0;
};

PackParams params_of(const Sides& sides, int64_t unit) {
  PackParams params{};
  params.rank = static_cast<int32_t>(sides.extents.size());
  params.element_bytes = static_cast<int32_t>(unit);
  params.count = 1;
  for (size_t i = 0; i < sides.extents.size(); ++i) {
    params.extent[i] = sides.extents[i];
    params.source_stride_bytes[i] = sides.source_strides[i] * unit;
    params.target_stride_bytes[i] = sides.target_strides[i] * unit;
    params.count *= sides.extents[i];
  }
  return params;
}

void expect_copied(const Sides& sides, int64_t unit, KernelId kernel) {
  Side source(sides.extents, sides.source_strides, unit);
  Side target(sides.extents, sides.target_strides, unit);
  Side expected(sides.extents, sides.target_strides, unit);
  source.buffer().fill_with_pattern(7);
  for_each_index(sides.extents, [&](const Dims& index) {
    std::memcpy(expected.at(index), source.at(index), static_cast<size_t>(unit));
  });
  PackParams params = params_of(sides, unit);
  params.source = source.first();
  params.target = target.first();
  run_on_host(kernel, params);
  EXPECT_EQ(std::memcmp(target.buffer().data(), expected.buffer().data(), target.buffer().size()),
            0);
  EXPECT_TRUE(target.buffer().guards_intact());
  EXPECT_TRUE(source.buffer().guards_intact());
}

// Strides without overlap: dimensions nested in a random order, with gaps and signs.
Dims nested_strides(const Dims& extents, std::mt19937& random) {
  std::vector<size_t> order(extents.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::shuffle(order.begin(), order.end(), random);
  Dims strides(extents.size());
  int64_t stride = 1;
  for (const size_t dim : order) {
    stride += random() % 3 == 0 ? 1 : 0;
    strides[dim] = random() % 2 == 0 ? stride : -stride;
    stride *= extents[dim];
  }
  return strides;
}

class PackBody : public testing::TestWithParam<int64_t> {};

TEST_P(PackBody, CopiesEveryRankAndSign) {
  std::mt19937 random(static_cast<uint32_t>(GetParam()));
  for (size_t rank = 0; rank <= 8; ++rank) {
    for (int round = 0; round < 40; ++round) {
      Sides sides;
      for (size_t i = 0; i < rank; ++i)
        sides.extents.push_back(1 + static_cast<int64_t>(random() % (rank < 5 ? 7 : 3)));
      sides.source_strides = nested_strides(sides.extents, random);
      sides.target_strides = nested_strides(sides.extents, random);
      if (rank > 0 && round % 4 == 0) sides.source_strides[random() % rank] = 0;
      SCOPED_TRACE("rank " + std::to_string(rank) + ", round " + std::to_string(round));
      expect_copied(sides, GetParam(), KernelId::strided);
      if (rank >= 2) expect_copied(sides, GetParam(), KernelId::transpose);
    }
  }
}

TEST_P(PackBody, TransposesOddExtents) {
  for (const int64_t columns : {1, 2, 7, 31, 32, 33, 63, 65, 100}) {
    for (const int64_t rows : {1, 3, 8, 31, 32, 33, 64, 97}) {
      for (const int sign : {1, -1}) {
        SCOPED_TRACE(std::to_string(columns) + " x " + std::to_string(rows));
        const Sides sides{{columns, rows, 3, 2},
                          {rows, sign, columns * rows, -3 * columns * rows},
                          {1, columns + 1, 2 * (columns + 1) * rows, (columns + 1) * rows}};
        expect_copied(sides, GetParam(), KernelId::transpose);
        expect_copied(sides, GetParam(), KernelId::strided);
      }
    }
  }
}

TEST_P(PackBody, CopiesBeyondOneGrid) {
  const Sides sides{{5, 401, 7}, {401 * 7, -7, 1}, {1, 5, 5 * 401}};
  expect_copied(sides, GetParam(), KernelId::strided);
  expect_copied(sides, GetParam(), KernelId::transpose);
}

TEST_P(PackBody, CopiesTheHighestRank) {
  Sides sides;
  for (size_t i = 0; i < PackParams::kMaxRank; ++i)
    sides.extents.push_back(i % 9 == 8 || i == 63 ? 3 : 1);
  std::mt19937 random(64);
  sides.source_strides = nested_strides(sides.extents, random);
  sides.target_strides = nested_strides(sides.extents, random);
  expect_copied(sides, GetParam(), KernelId::strided);
  expect_copied(sides, GetParam(), KernelId::transpose);
}

TEST_P(PackBody, CopiesNothingWhenEmpty) {
  Side source({1}, {1}, GetParam());
  Side target({1}, {1}, GetParam());
  PackParams params = params_of({{3, 0}, {1, 3}, {1, 3}}, GetParam());
  params.source = source.first();
  params.target = target.first();
  run_on_host(KernelId::strided, params);
  EXPECT_EQ(*target.first(), GuardedBuffer::kPoison);
}

TEST_P(PackBody, RefusesMisalignedAddresses) {
  if (GetParam() == 1) return;
  Side source({40, 40}, {40, 1}, GetParam());
  Side target({40, 40}, {1, 40}, GetParam());
  for (const KernelId kernel : {KernelId::strided, KernelId::transpose}) {
    PackParams params = params_of({{39, 39}, {40, 1}, {1, 40}}, GetParam());
    params.source = source.first() + GetParam() / 2;
    params.target = target.first();
    EXPECT_THROW(run_on_host(kernel, params), std::runtime_error);
    params.source = source.first();
    params.target = target.first() + GetParam() / 2;
    EXPECT_THROW(run_on_host(kernel, params), std::runtime_error);
  }
}

INSTANTIATE_TEST_SUITE_P(EveryUnit, PackBody, testing::Values(1, 2, 4, 8, 16),
                         testing::PrintToStringParamName());

// One element of so many that 32 bits would name another one; only that one is written.
TEST(PackBodyIndex, CountsBeyond32Bits) {
  constexpr int64_t kCount = 5 * (int64_t{1} << 32) * 3;
  constexpr int64_t kIndex = kCount - 4;  // 1 along dimension 0, 2 along dimension 2
  const uint8_t source[15] = {10, 11, 12, 13, 14, 20, 21, 22, 23, 24, 30, 31, 32, 33, 34};
  uint8_t target[15] = {};
  PackParams params = params_of({{5, int64_t{1} << 32, 3}, {1, 0, 5}, {1, 0, 5}}, 1);
  params.source = source;
  params.target = target;
  ASSERT_EQ(params.count, kCount);
  EXPECT_FALSE(counts_in_32_bits(params));
  copy_strided<uint8_t, uint64_t>(params, kIndex, kCount);
  const uint8_t expected[15] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 31, 0, 0, 0};
  EXPECT_EQ(std::memcmp(target, expected, sizeof target), 0);
}

TEST(PackBodyIndex, Uses32BitsWhereTheyFit) {
  PackParams params{};
  params.count = INT32_MAX;
  EXPECT_TRUE(counts_in_32_bits(params));
  params.count += 1;
  EXPECT_FALSE(counts_in_32_bits(params));
}

TEST(PackBodyTiling, MakesNoSpareTiles) {
  PackParams params = params_of({{64, 33, 5}, {33, 1, 64 * 33}, {1, 64, 64 * 33}}, 1);
  EXPECT_EQ(Tiling(params).count, 2u * 2 * 5);
  params.extent[0] = 65;
  params.extent[1] = 32;
  EXPECT_EQ(Tiling(params).count, 3u * 1 * 5);
}

// Every alignment of both sides, and lengths around the units.
TEST(GatherBody, CopiesEveryRun) {
  for (const int64_t bytes : {1, 3, 4, 15, 16, 17, 4095, 4099}) {
    GuardedBuffer source(static_cast<size_t>(17 * (bytes + 17)));
    GuardedBuffer target(static_cast<size_t>(17 * (bytes + 17)));
    for (size_t i = 0; i < source.size(); ++i) source.data()[i] = static_cast<uint8_t>(i * 7 + 1);
    std::vector<uint8_t> expected(target.data(), target.data() + target.size());
    GatherParams params{};
    for (int64_t i = 0; i < 17; ++i) {
      const int64_t from = i * (bytes + 17) + i;
      const int64_t to = i * (bytes + 17) + i * i % 17;
      params.runs[params.count++] = {source.data() + from, target.data() + to, bytes};
      std::copy_n(source.data() + from, bytes, expected.data() + to);
    }
    run_on_host(params);
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), target.data())) << bytes;
  }
}

TEST(PackBodyParams, RefusesWhatNoKernelTakes) {
  PackParams params{};
  params.element_bytes = 3;
  EXPECT_THROW(run_on_host(KernelId::strided, params), std::invalid_argument);
  params.element_bytes = 4;
  params.rank = 1;
  EXPECT_THROW(run_on_host(KernelId::transpose, params), std::invalid_argument);
}

}  // namespace
}  // namespace dlbridge::cuda
