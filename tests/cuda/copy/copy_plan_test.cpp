// SPDX-License-Identifier: Apache-2.0
// plan_copy: a table of views and what each becomes; thousands of random pairs executed on host
// memory against copy_host. Pieces: every element once, in the target's order, within the size.
#include "copy/copy_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <map>
#include <numeric>
#include <optional>
#include <random>

#include "dlbridge/copy.h"
#include "errors.h"
#include "memory.h"
#include "pack_on_host.h"
#include "shaped.h"

namespace dlbridge::cuda {

void PrintTo(CopyKind kind, std::ostream* out) {
  static constexpr const char* kNames[] = {"empty", "flat", "rows", "boxes", "pack"};
  *out << kNames[static_cast<int>(kind)];
}

void PrintTo(KernelId kernel, std::ostream* out) {
  *out << (kernel == KernelId::strided ? "strided" : "transpose");
}

namespace {

using test::expect_error;
using test::GuardedBuffer;
using test::row_major;
using test::Shaped;

using Dims = std::vector<int64_t>;

constexpr int64_t kGiB = int64_t{1} << 30;

// A type of any size, in the largest scalars that fit.
DType dtype_of(int64_t itemsize) {
  for (const int64_t scalar : {8, 4, 2}) {
    if (itemsize % scalar == 0)
      return DType(TypeCode::uint, static_cast<int>(8 * scalar),
                   static_cast<int>(itemsize / scalar));
  }
  return DType(TypeCode::uint, 8, static_cast<int>(itemsize));
}

// An address that is not dereferenced, `offset` away from a multiple of 64 KiB.
void* address(int64_t offset = 0) {
  return reinterpret_cast<void*>(static_cast<uintptr_t>((int64_t{1} << 40) + offset));
}

// ---- The table ----------------------------------------------------------------------------------

struct Case {
  const char* name;
  Dims shape;
  Dims source_strides;
  Dims target_strides;
  int64_t itemsize;
  CopyKind kind;
  // rows, boxes: width, rows, source pitch, target pitch, planes, source plane, target plane.
  // pack: unit, rank, and 1 for a transpose.
  Dims numbers = {};
  int64_t source_offset = 0;  // of the address, in bytes
  int64_t target_offset = 0;
};

std::vector<Case> cases() {
  using enum CopyKind;
  const Dims twos(62, 2);
  const Dims dense = row_major(twos);
  return {
      {"rank 0", {}, {}, {}, 8, flat},
      {"extents of one, odd strides", {1, 1}, {-7, INT64_MIN}, {INT64_MAX, 0}, 8, flat},
      {"empty", {3, 0}, {1, 1}, {1, 1}, 4, empty},
      {"empty, huge extents", {INT64_MAX, 0, INT64_MAX}, {9, 9, 9}, {1, 1, 1}, 4, empty},
      {"compact", {4, 5, 6}, {30, 6, 1}, {30, 6, 1}, 4, flat},
      {"one dimension", {1000}, {1}, {1}, 3, flat, {}, 1, 2},
      {"both Fortran", {4, 5, 6}, {1, 4, 20}, {1, 4, 20}, 4, flat},
      {"both in one odd order", {4, 5, 6}, {6, 24, 1}, {6, 24, 1}, 4, flat},
      {"both backwards", {4, 5}, {-5, -1}, {-5, -1}, 4, flat, {}, 76, 76},
      {"both backwards in one dimension", {4, 5}, {-5, 1}, {-5, 1}, 4, flat},
      {"an extent of one between", {4, 1, 6}, {6, -99, 1}, {6, 7, 1}, 4, flat},
      {"2^62 bytes", twos, dense, dense, 1, flat},

      {"wide rows out of wider ones",
       {10, 1024},
       {2000, 1},
       {1024, 1},
       4,
       rows,
       {4096, 10, 8000, 4096}},
      {"rows one byte too narrow", {10, 4095}, {8000, 1}, {4095, 1}, 1, pack, {1, 2, 0}},
      {"rows into wider ones", {10, 1024}, {1024, 1}, {2000, 1}, 4, rows, {4096, 10, 4096, 8000}},
      {"both backwards, rows",
       {10, 1024},
       {-2000, -1},
       {-1024, -1},
       4,
       rows,
       {4096, 10, 8000, 4096}},
      {"rows of a merged inner box",
       {7, 32, 32},
       {5000, 32, 1},
       {1024, 32, 1},
       4,
       rows,
       {4096, 7, 20000, 4096}},
      {"rows that begin anywhere",
       {3, 4099},
       {5001, 1},
       {4099, 1},
       1,
       rows,
       {4099, 3, 5001, 4099},
       1,
       3},
      {"an element as a row", {9}, {2}, {1}, 8192, rows, {8192, 9, 16384, 8192}},
      {"rows, source backwards", {10, 1024}, {-2000, 1}, {1024, 1}, 4, pack, {16, 2, 0}},
      {"rows, source broadcast", {10, 1024}, {0, 1}, {1024, 1}, 4, pack, {16, 2, 0}},
      {"rows that overlap in the source", {10, 1024}, {100, 1}, {1024, 1}, 4, pack, {16, 2, 0}},
      {"the widest pitch", {2, 4096}, {INT_MAX, 1}, {4096, 1}, 1, rows, {4096, 2, INT_MAX, 4096}},
      {"a pitch too wide", {2, 4096}, {INT_MAX + int64_t{1}, 1}, {4096, 1}, 1, pack, {16, 2, 0}},
      {"a target pitch too wide",
       {2, 4096},
       {4096, 1},
       {INT_MAX + int64_t{1}, 1},
       1,
       pack,
       {16, 2, 0}},

      {"boxes",
       {3, 5, 1024},
       {20000, 2000, 1},
       {5120, 1024, 1},
       4,
       boxes,
       {4096, 5, 8000, 4096, 3, 80000, 20480}},
      {"boxes into boxes",
       {3, 5, 1024},
       {20000, 2000, 1},
       {22000, 2200, 1},
       4,
       boxes,
       {4096, 5, 8000, 8800, 3, 80000, 88000}},
      {"planes as tight as they can be",
       {3, 5, 1024},
       {10000, 2000, 1},
       {6144, 1024, 1},
       4,
       boxes,
       {4096, 5, 8000, 4096, 3, 40000, 24576}},
      {"planes nearer than their rows",
       {3, 5, 1024},
       {2000, 6000, 1},
       {5120, 1024, 1},
       4,
       pack,
       {16, 3, 0}},
      {"planes that overlap", {3, 5, 1024}, {8000, 2000, 1}, {5120, 1024, 1}, 4, pack, {16, 3, 0}},
      {"planes of no whole rows",
       {3, 5, 1024},
       {20004, 2000, 1},
       {5120, 1024, 1},
       4,
       pack,
       {16, 3, 0}},
      {"target planes of no whole rows",
       {3, 5, 1024},
       {20000, 2000, 1},
       {5124, 1024, 1},
       4,
       pack,
       {16, 3, 0}},
      {"planes backwards", {3, 5, 1024}, {-20000, 2000, 1}, {5120, 1024, 1}, 4, pack, {16, 3, 0}},
      {"planes broadcast", {3, 5, 1024}, {0, 2000, 1}, {5120, 1024, 1}, 4, pack, {16, 3, 0}},
      {"one dimension too many",
       {2, 3, 5, 1024},
       {70000, 20000, 2000, 1},
       {15360, 5120, 1024, 1},
       4,
       pack,
       {16, 4, 0}},

      {"every second element", {100}, {2}, {1}, 4, pack, {4, 1, 0}},
      {"a matrix transposed", {64, 48}, {1, 64}, {48, 1}, 4, pack, {4, 2, 1}},
      {"a matrix transposed, source backwards", {64, 48}, {-1, 64}, {48, 1}, 4, pack, {4, 2, 1}},
      {"the source's inner dimension comes second",
       {64, 6, 48},
       {1, 4000, 64},
       {288, 48, 1},
       4,
       pack,
       {4, 3, 1}},
      {"transposed, too narrow for tiles", {64, 7}, {1, 64}, {7, 1}, 4, pack, {4, 2, 0}},
      {"transposed, too low for tiles", {7, 64}, {1, 7}, {64, 1}, 4, pack, {4, 2, 0}},
      {"just wide and low enough", {8, 8}, {1, 8}, {8, 1}, 4, pack, {4, 2, 1}},
      {"apart in the source as well", {64, 48}, {8, 512}, {48, 1}, 4, pack, {4, 2, 0}},
      {"broadcast along the target's rows", {64, 48}, {1, 0}, {48, 1}, 4, pack, {4, 2, 0}},
      {"broadcast along the outer dimension", {64, 48}, {0, 2}, {48, 1}, 4, pack, {4, 2, 0}},

      {"12 bytes as three units", {10}, {2}, {1}, 12, pack, {4, 2, 0}},
      {"32 bytes as two units", {10}, {2}, {1}, 32, pack, {16, 2, 0}},
      {"3 bytes", {10}, {2}, {1}, 3, pack, {1, 2, 0}},
      {"24 bytes", {10}, {2}, {1}, 24, pack, {8, 2, 0}},
      {"16 bytes, source at 8", {10}, {2}, {1}, 16, pack, {8, 2, 0}, 8},
      {"16 bytes, target at 4", {10}, {2}, {1}, 16, pack, {4, 2, 0}, 0, 4},
      {"8 bytes at an odd address", {10}, {2}, {1}, 8, pack, {1, 2, 0}, 1},
      {"short runs as larger units", {10, 16}, {20, 1}, {16, 1}, 1, pack, {4, 2, 0}},
      {"runs whose rows begin at odd places", {10, 16}, {17, 1}, {16, 1}, 1, pack, {1, 2, 0}},
      {"pixels from planes", {20, 30, 3}, {30, 1, 600}, {90, 3, 1}, 1, pack, {1, 2, 0}},
      {"odd stride of a run's one side", {10, 16}, {16, 1}, {18, 1}, 1, pack, {2, 2, 0}},
      {"62 dimensions", twos, dense, {dense.rbegin(), dense.rend()}, 1, pack, {1, 62, 0}},
  };
}

class PlanCopyTable : public testing::TestWithParam<Case> {};

Dims numbers_of(const CopyStep& step) {
  const auto& [run, rows, planes] = step.dims;
  switch (step.kind) {
    case CopyKind::rows:
      return {run.extent, rows.extent, rows.src_stride_bytes, rows.dst_stride_bytes};
    case CopyKind::boxes:
      return {run.extent,
              rows.extent,
              rows.src_stride_bytes,
              rows.dst_stride_bytes,
              planes.extent,
              planes.src_stride_bytes,
              planes.dst_stride_bytes};
    case CopyKind::pack:
      return {step.pack.element_bytes, step.pack.rank,
              choose_kernel(step.pack) == KernelId::transpose};
    default:
      return {};
  }
}

TEST_P(PlanCopyTable, GivesWhatTheTableSays) {
  const Case& row = GetParam();
  const DType dtype = dtype_of(row.itemsize);
  const Shaped source(row.shape, row.source_strides, dtype, address(row.source_offset));
  const Shaped target(row.shape, row.target_strides, dtype, address(64 * kGiB + row.target_offset));
  ASSERT_EQ(dtype.itemsize(), row.itemsize);
  const CopyStep step = plan_copy(source.view(), target.view());
  EXPECT_EQ(step.kind, row.kind);
  EXPECT_EQ(step.bytes, target.view().nbytes());
  EXPECT_EQ(numbers_of(step), row.numbers);
}

void PrintTo(const Case& row, std::ostream* out) { *out << row.name; }

std::string name_of(const testing::TestParamInfo<Case>& row) {
  std::string name = row.param.name;
  for (char& letter : name) {
    if (std::isalnum(static_cast<unsigned char>(letter)) == 0) letter = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, PlanCopyTable, testing::ValuesIn(cases()), name_of);

TEST(PlanCopy, StartsAtLowestAddress) {
  const Shaped source({4, 5}, {-5, -1}, test::kFloat32, address(76));
  const Shaped target({4, 5}, {-5, -1}, test::kFloat32, address(kGiB + 76));
  const CopyStep step = plan_copy(source.view(), target.view());
  EXPECT_EQ(step.source, address(0));
  EXPECT_EQ(step.target, address(kGiB));
}

TEST(PlanCopy, HonoursMinimumRow) {
  const Shaped source({10, 4}, {20, 1}, test::kFloat32, address());
  const Shaped target({10, 4}, {4, 1}, test::kFloat32, address(kGiB));
  EXPECT_EQ(plan_copy(source.view(), target.view(), 16).kind, CopyKind::rows);
  EXPECT_EQ(plan_copy(source.view(), target.view(), 17).kind, CopyKind::pack);
}

TEST(PlanCopy, IgnoresExtentsOfOne) {
  Dims shape(100, 1);
  shape[3] = 6;
  shape[90] = 7;
  Dims strides(100, 12345);
  strides[3] = 7;
  strides[90] = 1;
  const Shaped source(shape, strides, test::kFloat32, address());
  const Shaped target(shape, strides, test::kFloat32, address(kGiB));
  EXPECT_EQ(plan_copy(source.view(), target.view()).kind, CopyKind::flat);
  Pieces pieces(source.view(), target.view(), 1000);
  ASSERT_TRUE(pieces.next());
  EXPECT_EQ(pieces.target().nbytes(), 6 * 7 * 4);
}

TEST(ChooseKernel, HugeTransposeUsesStrided) {
  PackParams params{};
  params.rank = 2;
  params.element_bytes = 1;
  params.extent[0] = params.extent[1] = 1000;
  params.source_stride_bytes[0] = 1000;
  params.source_stride_bytes[1] = 1;
  params.count = 1000000;
  EXPECT_EQ(choose_kernel(params), KernelId::transpose);
  params.count = int64_t{64} << 31;
  EXPECT_EQ(choose_kernel(params), KernelId::strided);
  params.count = 1000000;
  params.rank = 1;
  EXPECT_EQ(choose_kernel(params), KernelId::strided);
}

// ---- Random pairs, executed ---------------------------------------------------------------------

// Memory behind random strides: a guarded buffer and the view of it.
class Placed {
 public:
  Placed(const Dims& shape, const Dims& strides, DType dtype, size_t misalignment)
      : range_(*byte_range(shape, strides, dtype.itemsize())),
        buffer_(static_cast<size_t>(range_.before + range_.after), misalignment),
        shaped_(shape, strides, dtype, buffer_.data() + range_.before) {}

  TensorView view() const { return shaped_.view(); }
  GuardedBuffer& buffer() { return buffer_; }

 private:
  ByteRange range_;
  GuardedBuffer buffer_;
  Shaped shaped_;
};

class RandomPair {
 public:
  explicit RandomPair(uint32_t seed) : random_(seed) {
    const int64_t itemsizes[] = {1, 1, 2, 2, 3, 4, 4, 6, 8, 8, 12, 16, 16, 24, 32};
    const DType dtype = dtype_of(itemsizes[below(std::size(itemsizes))]);
    const size_t ranks[] = {0, 1, 2, 2, 2, 3, 3, 3, 4, 5};
    const size_t rank = ranks[below(std::size(ranks))];
    const bool large = rank == 2 && below(3) > 0;
    Dims shape;
    for (size_t i = 0; i < rank; ++i)
      shape.push_back(1 + static_cast<int64_t>(below(large ? 80 : rank < 4 ? 17 : 6)));
    target_is_dense_ = below(2) == 0;
    const bool boxes = below(4) == 0;
    const std::vector<size_t> order = any_order(rank);
    const auto laid_out = [&](const std::vector<size_t>& inner_first, bool dense) {
      return boxes ? boxed(shape, inner_first, dense) : nested(shape, inner_first, dense);
    };
    const Dims target_strides = laid_out(order, target_is_dense_);
    // Most sources are laid out in the target's order, so that runs meet.
    Dims source_strides = laid_out(below(5) > 1 ? order : any_order(rank), below(2) == 0);
    if (below(3) == 0) source_strides = follow(target_strides, source_strides);
    if (rank > 0 && below(6) == 0) source_strides[below(rank)] = 0;
    if (rank > 1 && below(8) == 0) source_strides[0] = source_strides[1];  // windows
    const size_t misalignments[] = {0, 0, 0, 0, 8, 4, 1};
    const size_t from = misalignments[below(std::size(misalignments))];
    const size_t to = misalignments[below(std::size(misalignments))];
    source.emplace(shape, source_strides, dtype, from);
    target.emplace(shape, target_strides, dtype, to);
    expected.emplace(shape, target_strides, dtype, to);
    source->buffer().fill_with_pattern(seed);
    copy_host(source->view(), expected->view());
  }

  size_t below(size_t limit) { return random_() % limit; }
  bool target_is_dense() const { return target_is_dense_; }
  bool agrees() {
    return std::memcmp(target->buffer().data(), expected->buffer().data(),
                       expected->buffer().size()) == 0 &&
           target->buffer().guards_intact() && source->buffer().guards_intact();
  }

  std::optional<Placed> source;
  std::optional<Placed> target;
  std::optional<Placed> expected;  // what copy_host makes of the target

 private:
  std::vector<size_t> any_order(size_t rank) {
    std::vector<size_t> order(rank);
    std::iota(order.rbegin(), order.rend(), size_t{0});
    if (below(2) == 0) std::ranges::shuffle(order, random_);
    return order;
  }

  // Strides without overlap, innermost first in `order`.
  Dims nested(const Dims& shape, const std::vector<size_t>& order, bool dense) {
    Dims strides(shape.size());
    const bool signs = below(3) == 0;
    int64_t stride = 1;
    for (const size_t dim : order) {
      if (!dense && below(2) == 0) stride += static_cast<int64_t>(1 + below(3));
      strides[dim] = signs && below(2) == 0 ? -stride : stride;
      stride *= shape[dim];
    }
    return strides;
  }

  // The same inside of larger memory: rows of whole elements, planes of whole rows.
  Dims boxed(const Dims& shape, const std::vector<size_t>& order, bool dense) {
    Dims strides(shape.size());
    int64_t stride = 1;
    for (const size_t dim : order) {
      strides[dim] = stride;
      stride *= shape[dim] + (dense ? 0 : static_cast<int64_t>(below(3)));
    }
    return strides;
  }

  static Dims follow(const Dims& target, Dims source) {
    for (size_t i = 0; i < source.size(); ++i)
      source[i] = target[i] < 0 ? -std::abs(source[i]) : std::abs(source[i]);
    return source;
  }

  std::mt19937 random_;
  bool target_is_dense_;
};

// What the driver would do with a step, refusals included.
void execute(const CopyStep& step) {
  const auto& [run, rows, planes] = step.dims;
  const auto copy_rows = [&](const std::byte* source, std::byte* target) {
    ASSERT_LE(run.extent, rows.src_stride_bytes);
    ASSERT_LE(run.extent, rows.dst_stride_bytes);
    for (int64_t row = 0; row < rows.extent; ++row) {
      std::memcpy(target + row * rows.dst_stride_bytes, source + row * rows.src_stride_bytes,
                  static_cast<size_t>(run.extent));
    }
  };
  switch (step.kind) {
    case CopyKind::empty:
      return;
    case CopyKind::flat:
      std::memcpy(step.target, step.source, static_cast<size_t>(step.bytes));
      return;
    case CopyKind::rows:
      ASSERT_EQ(step.bytes, run.extent * rows.extent);
      return copy_rows(step.source, step.target);
    case CopyKind::boxes:
      ASSERT_EQ(step.bytes, run.extent * rows.extent * planes.extent);
      ASSERT_EQ(planes.src_stride_bytes % rows.src_stride_bytes, 0);
      ASSERT_EQ(planes.dst_stride_bytes % rows.dst_stride_bytes, 0);
      ASSERT_GE(planes.src_stride_bytes / rows.src_stride_bytes, rows.extent);
      ASSERT_GE(planes.dst_stride_bytes / rows.dst_stride_bytes, rows.extent);
      for (int64_t plane = 0; plane < planes.extent; ++plane) {
        copy_rows(step.source + plane * planes.src_stride_bytes,
                  step.target + plane * planes.dst_stride_bytes);
      }
      return;
    case CopyKind::pack:
      ASSERT_EQ(step.bytes, step.pack.count * step.pack.element_bytes);
      return run_on_host(choose_kernel(step.pack), step.pack);
  }
}

constexpr int64_t kRowBytes[] = {1, 16, 64, 4096};

TEST(PlanCopy, CopiesWhatCopyHostCopies) {
  std::map<CopyKind, int> met;
  std::map<KernelId, int> kernels;
  std::map<int32_t, int> units;
  for (uint32_t seed = 0; seed < 12000; ++seed) {
    RandomPair pair(seed);
    const CopyStep step =
        plan_copy(pair.source->view(), pair.target->view(), kRowBytes[pair.below(4)]);
    ASSERT_NO_FATAL_FAILURE(execute(step)) << "seed " << seed;
    ASSERT_TRUE(pair.agrees()) << "seed " << seed;
    ++met[step.kind];
    if (step.kind != CopyKind::pack) continue;
    ++kernels[choose_kernel(step.pack)];
    ++units[step.pack.element_bytes];
  }
  for (const CopyKind kind : {CopyKind::flat, CopyKind::rows, CopyKind::boxes, CopyKind::pack})
    EXPECT_GE(met[kind], 200) << testing::PrintToString(kind);
  EXPECT_GE(kernels[KernelId::transpose], 200);
  for (const int32_t unit : {1, 2, 4, 8, 16}) EXPECT_GE(units[unit], 50) << unit;
}

TEST(PlanCopy, DenseSourceIsFlat) {
  std::mt19937 random(3);
  for (int round = 0; round < 500; ++round) {
    const size_t rank = random() % 6;
    Dims shape;
    for (size_t i = 0; i < rank; ++i) shape.push_back(1 + static_cast<int64_t>(random() % 5));
    std::vector<size_t> order(rank);
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::shuffle(order, random);
    Dims strides(rank);
    int64_t stride = 1;
    for (const size_t dim : order) {
      strides[dim] = stride;
      stride *= shape[dim];
    }
    const Shaped source(shape, strides, test::kFloat32, address());
    Dims arriving(rank);
    dense_strides_like(source.view(), arriving.data());
    const Shaped target(shape, arriving, test::kFloat32, address(kGiB));
    ASSERT_EQ(plan_copy(source.view(), target.view()).kind, CopyKind::flat) << "round " << round;
  }
}

// ---- Pieces -------------------------------------------------------------------------------------

TEST(Pieces, CoverEveryElementOnce) {
  int cut = 0;
  for (uint32_t seed = 0; seed < 4000; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RandomPair pair(seed);
    const TensorView target = pair.target->view();
    const int64_t itemsize = target.itemsize();
    const int64_t max_bytes = 1 + static_cast<int64_t>(pair.below(pair.below(2) == 0 ? 64 : 3000));
    const auto* lowest = pair.target->buffer().data();
    const uint8_t* previous = nullptr;
    int64_t moved = 0;
    Pieces pieces(pair.source->view(), target, max_bytes);
    while (pieces.next()) {
      const TensorView& to = pieces.target();
      const auto* begin = static_cast<uint8_t*>(to.data);
      ASSERT_LE(to.nbytes(), std::max(max_bytes, itemsize));
      ASSERT_GT(to.nbytes(), 0);
      ASSERT_TRUE(previous == nullptr || begin > previous);
      ASSERT_TRUE(std::ranges::equal(pieces.source().extents(), to.extents()));
      if (pair.target_is_dense()) {
        ASSERT_TRUE(is_contiguous(to));
        ASSERT_EQ(begin, lowest + moved);
      }
      execute(plan_copy(pieces.source(), to, 128));
      previous = begin;
      moved += to.nbytes();
    }
    ASSERT_FALSE(pieces.next());
    ASSERT_EQ(moved, target.nbytes());
    ASSERT_TRUE(pair.agrees());
    cut += target.nbytes() > max_bytes;
  }
  EXPECT_GE(cut, 2000);
}

int number_of_pieces(const Shaped& source, const Shaped& target, int64_t max_bytes) {
  int count = 0;
  for (Pieces pieces(source.view(), target.view(), max_bytes); pieces.next();) ++count;
  return count;
}

TEST(Pieces, AreLargestPossible) {
  const Shaped flat({1000}, {1}, test::kFloat32, address());
  EXPECT_EQ(number_of_pieces(flat, flat, 4000), 1);
  EXPECT_EQ(number_of_pieces(flat, flat, 3999), 2);
  EXPECT_EQ(number_of_pieces(flat, flat, 400), 10);
  EXPECT_EQ(number_of_pieces(flat, flat, 3), 1000);
  const Shaped turned({30, 20}, {1, 30}, test::kFloat32, address());
  const Shaped compact({30, 20}, {20, 1}, test::kFloat32, address(kGiB));
  EXPECT_EQ(number_of_pieces(turned, compact, 240), 10);  // three rows each
  EXPECT_EQ(number_of_pieces(turned, compact, 40), 60);   // half a row each
}

TEST(Pieces, EmptyViewHasNone) {
  const Shaped empty({3, 0}, {0, 1}, test::kFloat32, nullptr);
  Pieces pieces(empty.view(), empty.view(), 100);
  EXPECT_FALSE(pieces.next());
}

TEST(Pieces, OfOneElementAreOne) {
  const Shaped one({}, {}, test::kFloat64, address());
  Pieces pieces(one.view(), one.view(), 4);
  ASSERT_TRUE(pieces.next());
  EXPECT_EQ(pieces.target().nbytes(), 8);
  EXPECT_FALSE(pieces.next());
}

// ---- Below a byte -------------------------------------------------------------------------------

constexpr DType kInt4{TypeCode::int_, 4};
constexpr DType kInt4Three{TypeCode::int_, 4, 3};

TEST(PackedSubbyte, MovesWholeRunsAsBytes) {
  for (const auto& [shape, strides, dtype, bytes] :
       {std::tuple{Dims{3, 5}, Dims{5, 1}, kInt4, 8}, std::tuple{Dims{3, 5}, Dims{1, 3}, kInt4, 8},
        std::tuple{Dims{}, Dims{}, kInt4, 1}, std::tuple{Dims{3}, Dims{1}, kInt4Three, 5}}) {
    const Shaped source(shape, strides, dtype, address());
    const Shaped target(shape, strides, dtype, address(kGiB));
    const CopyStep step = plan_copy(source.view(), target.view());
    EXPECT_EQ(step.kind, CopyKind::flat);
    EXPECT_EQ(step.bytes, bytes);
    EXPECT_EQ(step.source, address());
    int64_t moved = 0;
    Pieces pieces(source.view(), target.view(), 3);
    while (pieces.next()) {
      EXPECT_EQ(pieces.source().data, address(moved));
      EXPECT_EQ(pieces.target().data, address(kGiB + moved));
      EXPECT_EQ(DType(pieces.source().dtype), test::kUint8);
      moved += pieces.target().nbytes();
    }
    EXPECT_EQ(moved, bytes);
  }
}

TEST(PackedSubbyte, IsRefusedElementByElement) {
  for (const Dims& strides : {Dims{1, 3}, Dims{10, 2}, Dims{-5, -1}, Dims{0, 1}, Dims{6, 1}}) {
    const Shaped source({3, 5}, strides, kInt4, address());
    const Shaped target({3, 5}, {5, 1}, kInt4, address(kGiB));
    expect_error(ErrorCode::packed_subbyte, [&] { plan_copy(source.view(), target.view()); });
    expect_error(ErrorCode::packed_subbyte, [&] { Pieces(source.view(), target.view(), 100); });
    expect_error(ErrorCode::packed_subbyte, [&] { plan_copy(target.view(), source.view()); });
  }
  const Shaped every_second({5}, {2}, kInt4, address());
  const Shaped compact({5}, {1}, kInt4, address(kGiB));
  expect_error(ErrorCode::packed_subbyte, [&] { plan_copy(every_second.view(), compact.view()); });
  expect_error(ErrorCode::packed_subbyte, [&] { plan_copy(compact.view(), every_second.view()); });
  // Backwards alike is one run too, but one that begins inside a byte.
  const Shaped backwards({5}, {-1}, kInt4, address());
  expect_error(ErrorCode::packed_subbyte, [&] { plan_copy(backwards.view(), backwards.view()); });
}

TEST(PackedSubbyte, MovesPaddedOrPaired) {
  Shaped source({3, 5}, {1, 3}, kInt4, address());
  Shaped target({3, 5}, {5, 1}, kInt4, address(kGiB));
  source.fields().subbyte_padded = target.fields().subbyte_padded = true;
  EXPECT_EQ(plan_copy(source.view(), target.view()).kind, CopyKind::pack);
  const Shaped pairs({3, 5}, {1, 3}, kFloat4Pair, address());
  const Shaped paired({3, 5}, {5, 1}, kFloat4Pair, address(kGiB));
  EXPECT_EQ(plan_copy(pairs.view(), paired.view()).kind, CopyKind::pack);
}

TEST(PackedSubbyte, MovesNothingWhenEmpty) {
  const Shaped source({0, 5}, {1, 3}, kInt4, nullptr);
  const Shaped target({0, 5}, {5, 1}, kInt4, nullptr);
  EXPECT_EQ(plan_copy(source.view(), target.view()).kind, CopyKind::empty);
}

}  // namespace
}  // namespace dlbridge::cuda
