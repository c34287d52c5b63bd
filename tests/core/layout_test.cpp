// SPDX-License-Identifier: Apache-2.0
// Layout: overflow-checked sizes, contiguity, overlap and intersection against brute force,
// coalescing, dense strides.
#include "dlbridge/layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "dlbridge/plan.h"
#include "shaped.h"

namespace dlbridge {
namespace {

using test::for_each_index;
using test::kFloat32;
using test::kInt8;
using test::offset_bytes;
using test::Shaped;

using Dims = std::vector<int64_t>;
constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kMin = std::numeric_limits<int64_t>::min();

TEST(ElementCount, MultipliesExtents) {
  EXPECT_EQ(element_count(Dims{}), 1);
  EXPECT_EQ(element_count(Dims{5}), 5);
  EXPECT_EQ(element_count(Dims{2, 3, 4}), 24);
  EXPECT_EQ(element_count(Dims{kMax}), kMax);
}

TEST(ElementCount, ZeroBeatsOverflow) {
  EXPECT_EQ(element_count(Dims{kMax, kMax, 0}), 0);
  EXPECT_EQ(element_count(Dims{0, kMax, kMax}), 0);
}

TEST(ElementCount, RefusesOverflow) {
  EXPECT_FALSE(element_count(Dims{kMax, 2}).has_value());
  EXPECT_FALSE(element_count(Dims{int64_t{1} << 32, int64_t{1} << 32}).has_value());
  EXPECT_FALSE(element_count(Dims{-1}).has_value());
  EXPECT_FALSE(element_count(Dims{0, -1}).has_value());
  EXPECT_FALSE(element_count(Dims{-2, -2}).has_value());
}

TEST(ByteRange, SpansAllBytes) {
  const auto compact = byte_range(Dims{2, 3}, Dims{3, 1}, 4);
  ASSERT_TRUE(compact.has_value());
  EXPECT_EQ(compact->before, 0);
  EXPECT_EQ(compact->after, 24);
  const auto mixed = byte_range(Dims{2, 3}, Dims{-10, 2}, 4);
  ASSERT_TRUE(mixed.has_value());
  EXPECT_EQ(mixed->before, 40);
  EXPECT_EQ(mixed->after, 20);
}

TEST(ByteRange, IgnoresStridesWithoutMeaning) {
  const auto one = byte_range(Dims{1, 2}, Dims{kMax, 1}, 8);
  ASSERT_TRUE(one.has_value());
  EXPECT_EQ(one->after, 16);
  const auto empty = byte_range(Dims{5, 0}, Dims{kMin, kMax}, 8);
  ASSERT_TRUE(empty.has_value());
  EXPECT_EQ(empty->before, 0);
  EXPECT_EQ(empty->after, 0);
}

TEST(ByteRange, OverflowHasNoRange) {
  EXPECT_FALSE(byte_range(Dims{2}, Dims{kMax}, 4).has_value());
  EXPECT_FALSE(byte_range(Dims{2}, Dims{kMin}, 1).has_value());
  EXPECT_FALSE(byte_range(Dims{2}, Dims{kMax}, 1).has_value());
  EXPECT_FALSE(byte_range(Dims{3}, Dims{kMax / 2 + 1}, 1).has_value());
  EXPECT_FALSE(byte_range(Dims{2, 2, 2}, Dims{kMax / 2, kMax / 2, 1}, 1).has_value());
  EXPECT_FALSE(byte_range(Dims{2, 2, 2}, Dims{-kMax / 2, -kMax / 2, -2}, 1).has_value());
}

TEST(ByteRange, AcceptsTheLargest) {
  const auto range = byte_range(Dims{2}, Dims{kMax - 1}, 1);
  ASSERT_TRUE(range.has_value());
  EXPECT_EQ(range->after, kMax);
}

TEST(CompactStrides, EmptyCountsAsOne) {
  Dims out(4);
  compact_strides(Dims{2, 0, 3, 1}, out.data());
  EXPECT_EQ(out, (Dims{3, 3, 1, 1}));
}

// Rule: 69
TEST(IsContiguous, IgnoresStridesWithoutMeaning) {
  EXPECT_TRUE(is_contiguous(Shaped({}, {}).view()));
  EXPECT_TRUE(is_contiguous(Shaped({2, 3}, {3, 1}).view()));
  EXPECT_TRUE(is_contiguous(Shaped({2, 1, 3}, {3, -77, 1}).view()));
  EXPECT_TRUE(is_contiguous(Shaped({1}, {5}).view()));
  EXPECT_TRUE(is_contiguous(Shaped({4, 0}, {9, 9}).view()));
  EXPECT_TRUE(is_contiguous(Shaped({0, 4}, {9, 9}).view()));
  EXPECT_FALSE(is_contiguous(Shaped({2, 3}, {1, 2}).view()));
  EXPECT_FALSE(is_contiguous(Shaped({2, 3}, {4, 1}).view()));
  EXPECT_FALSE(is_contiguous(Shaped({3}, {-1}).view()));
  EXPECT_FALSE(is_contiguous(Shaped({3}, {0}).view()));
}

TEST(NegativeStrideDimension, IsTheFirstThatCounts) {
  EXPECT_EQ(negative_stride_dimension(Shaped({2, 3}, {3, 1}).view()), -1);
  EXPECT_EQ(negative_stride_dimension(Shaped({2, 3}, {3, -1}).view()), 1);
  EXPECT_EQ(negative_stride_dimension(Shaped({1, 3, 2}, {-3, -1, -9}).view()), 1);
  EXPECT_EQ(negative_stride_dimension(Shaped({1}, {-1}).view()), -1);
  EXPECT_EQ(negative_stride_dimension(Shaped({0, 3}, {-3, -1}).view()), -1);
}

// Draws small layouts. The seed is fixed: a failure repeats.
class RandomLayouts {
 public:
  explicit RandomLayouts(uint32_t seed) : engine_(seed) {}

  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }

  Shaped draw(int max_ndim, int64_t max_extent, int64_t max_stride, DType dtype = kInt8,
              void* data = Shaped::aligned_address()) {
    Dims shape;
    Dims strides;
    const auto ndim = between(0, max_ndim);
    for (int64_t i = 0; i < ndim; ++i) {
      shape.push_back(between(0, 20) == 0 ? 0 : between(1, max_extent));
      strides.push_back(between(-max_stride, max_stride));
    }
    return {shape, strides, dtype, data};
  }

  std::mt19937& engine() { return engine_; }

 private:
  std::mt19937 engine_;
};

std::string text_of(const TensorView& view) {
  std::string text = "shape ";
  for (int64_t extent : view.extents()) text += std::to_string(extent) + " ";
  text += "strides ";
  for (int64_t stride : view.stride_elements()) text += std::to_string(stride) + " ";
  return text;
}

// Whether two index tuples meet, broadcast dimensions taken once.
bool overlaps_by_force(const TensorView& view) {
  Dims shape(view.shape, view.shape + view.ndim);
  for (int32_t i = 0; i < view.ndim; ++i) {
    if (view.strides[i] == 0 && shape[i] > 1) shape[i] = 1;
  }
  std::set<int64_t> seen;
  bool meets = false;
  for_each_index(
      shape, [&](const Dims& index) { meets |= !seen.insert(offset_bytes(view, index)).second; });
  return meets;
}

TEST(HasPartialOverlap, AgreesWithBruteForce) {
  RandomLayouts random(20261121);
  int overlapping = 0;
  for (int i = 0; i < 20000; ++i) {
    const Shaped layout = random.draw(4, 4, 12);
    const TensorView view = layout.view();
    const bool expected = overlaps_by_force(view);
    overlapping += expected;
    ASSERT_EQ(has_partial_overlap(view), expected) << text_of(view);
  }
  EXPECT_GT(overlapping, 2000);
  EXPECT_LT(overlapping, 18000);
}

TEST(HasPartialOverlap, FindsSlidingWindows) {
  for (int64_t step = 1; step <= 8; ++step) {
    EXPECT_EQ(has_partial_overlap(Shaped({100, 5}, {step, 1}).view()), step < 5) << step;
    EXPECT_EQ(has_partial_overlap(Shaped({5, 100}, {1, -step}).view()), step < 5) << step;
  }
}

TEST(HasPartialOverlap, AllowsInterleaving) {
  // 3 i and 5 j with i < 5, j < 3: distinct. One more on either side and 15 is reached twice.
  EXPECT_FALSE(has_partial_overlap(Shaped({5, 3}, {3, 5}).view()));
  EXPECT_TRUE(has_partial_overlap(Shaped({6, 4}, {3, 5}).view()));
}

TEST(HasPartialOverlap, UndecidedIsOverlap) {
  // Strides M + 2^i with digits -1, 0, 1 never sum to zero, but no bound on partial sums shows it
  // early.
  Dims shape(20, 2);
  Dims strides;
  for (int i = 0; i < 20; ++i) strides.push_back((int64_t{1} << 30) + (int64_t{1} << i));
  EXPECT_TRUE(has_partial_overlap(Shaped(shape, strides).view()));
}

std::set<int64_t> bytes_of(const TensorView& view) {
  std::set<int64_t> bytes;
  for_each_index(view.extents(), [&](const Dims& index) {
    const int64_t first = reinterpret_cast<intptr_t>(view.data) + offset_bytes(view, index);
    for (int64_t i = 0; i < view.itemsize(); ++i) bytes.insert(first + i);
  });
  return bytes;
}

bool intersect_by_force(const TensorView& a, const TensorView& b) {
  const std::set<int64_t> bytes = bytes_of(a);
  return std::ranges::any_of(bytes_of(b), [&](int64_t byte) { return bytes.contains(byte); });
}

struct Drawing {
  const char* name;
  int max_ndim;
  int64_t max_extent;
  int64_t max_stride;
  int64_t max_distance;
  int count;
};

void PrintTo(const Drawing& drawing, std::ostream* out) { *out << drawing.name; }

class ElementsIntersect : public testing::TestWithParam<Drawing> {};

// Most of what is drawn overlaps itself.
TEST_P(ElementsIntersect, AgreesWithBruteForce) {
  const Drawing& drawing = GetParam();
  RandomLayouts random(4711);
  constexpr int kBits[] = {8, 16, 32, 64};
  int meeting = 0;
  for (int i = 0; i < drawing.count; ++i) {
    const auto draw = [&] {
      auto* place = static_cast<char*>(Shaped::aligned_address()) + (1 << 24) +
                    random.between(0, drawing.max_distance);
      return random.draw(drawing.max_ndim, drawing.max_extent, drawing.max_stride,
                         DType(TypeCode::int_, kBits[random.between(0, 3)]), place);
    };
    const Shaped first = draw();
    const Shaped second = draw();
    const TensorView a = first.view();
    const TensorView b = second.view();
    const bool expected = intersect_by_force(a, b);
    meeting += expected;
    const std::string text = text_of(a) + text_of(b);
    ASSERT_EQ(elements_intersect(a, b), expected) << text;
    ASSERT_EQ(elements_intersect(b, a), expected) << text;
    ASSERT_TRUE(!expected || ranges_intersect(a, b)) << text;
  }
  EXPECT_GT(meeting, drawing.count / 20);
  EXPECT_LT(meeting, drawing.count - drawing.count / 20);
}

INSTANTIATE_TEST_SUITE_P(Drawings, ElementsIntersect,
                         testing::Values(Drawing{"Small", 3, 3, 8, 40, 10000},
                                         Drawing{"Long", 2, 30, 50, 900, 300},
                                         Drawing{"Deep", 6, 3, 400, 3000, 300}),
                         testing::PrintToStringParamName());

// The sums of k strides are 2001 k and every second number above it.
TEST(ElementsIntersect, FindsHoles) {
  auto* base = static_cast<char*>(Shaped::aligned_address());
  const Shaped windows({41, 41, 41, 41, 41}, {2001, 2003, 2005, 2007, 2009}, kInt8, base);
  for (const int64_t offset : {2002, 80041, 80042}) {
    const Shaped byte({}, {}, kInt8, base + offset);
    EXPECT_EQ(elements_intersect(windows.view(), byte.view()), offset == 80042) << offset;
    EXPECT_EQ(elements_intersect(byte.view(), windows.view()), offset == 80042) << offset;
  }
  const Shaped rows({64, 64, 64}, {1024, 512, 1}, kFloat32, base);  // 64 elements of every 512
  const Shaped gap({64, 64}, {512, 1}, kFloat32, base + 4 * 64);
  EXPECT_FALSE(elements_intersect(rows.view(), gap.view()));
  EXPECT_FALSE(elements_intersect(gap.view(), rows.view()));
}

// Strides without a common pattern, in a sum that is not decided within the bound.
TEST(ElementsIntersect, UndecidedIsCommon) {
  Dims shape(20, 2);
  Dims strides;
  for (int i = 0; i < 20; ++i) strides.push_back((int64_t{1} << 30) + (int64_t{1} << i));
  auto* base = static_cast<char*>(Shaped::aligned_address());
  const Shaped hard(shape, strides, kInt8, base);
  const Shaped byte({2}, {3}, kInt8, base + (int64_t{10} << 30) - 2);
  EXPECT_TRUE(elements_intersect(hard.view(), byte.view()));
  EXPECT_TRUE(elements_intersect(byte.view(), hard.view()));
}

// Eight elements of four bits fill four bytes.
TEST(ElementsIntersect, CountsPackedBits) {
  auto* base = static_cast<char*>(Shaped::aligned_address());
  const DType int4(TypeCode::int_, 4);
  const Shaped left({2, 4}, {4, 1}, int4, base);
  const Shaped right({2, 4}, {4, 1}, int4, base + 4);
  const Shaped columns({2}, {4}, kInt8, base + 3);
  EXPECT_FALSE(ranges_intersect(left.view(), right.view()));
  EXPECT_FALSE(elements_intersect(left.view(), right.view()));
  EXPECT_FALSE(elements_intersect(columns.view(), Shaped({6}, {1}, int4, base + 4).view()));
  EXPECT_TRUE(elements_intersect(columns.view(), left.view()));
  EXPECT_TRUE(elements_intersect(left.view(), left.view()));
}

TEST(ElementsIntersect, InterleavedColumnsDoNot) {
  auto* base = static_cast<char*>(Shaped::aligned_address());
  const Shaped even({100}, {2}, kFloat32, base);
  const Shaped odd({100}, {2}, kFloat32, base + 4);
  EXPECT_TRUE(ranges_intersect(even.view(), odd.view()));
  EXPECT_FALSE(elements_intersect(even.view(), odd.view()));
  EXPECT_TRUE(elements_intersect(even.view(), even.view()));
}

TEST(ElementsIntersect, OtherDevicesDoNot) {
  Shaped host({4});
  Shaped first_gpu({4});
  first_gpu.fields().device = {kDLCUDA, 0};
  Shaped second_gpu({4});
  second_gpu.fields().device = {kDLCUDA, 1};
  Shaped pinned({4});
  pinned.fields().device = {kDLCUDAHost, 0};
  EXPECT_FALSE(elements_intersect(host.view(), first_gpu.view()));
  EXPECT_FALSE(elements_intersect(first_gpu.view(), second_gpu.view()));
  EXPECT_TRUE(elements_intersect(first_gpu.view(), first_gpu.view()));
  EXPECT_TRUE(elements_intersect(host.view(), pinned.view()));
}

TEST(RangesIntersect, NeighboursDoNot) {
  auto* base = static_cast<char*>(Shaped::aligned_address());
  const Shaped left({4}, {1}, kFloat32, base);
  const Shaped right({4}, {1}, kFloat32, base + 16);
  EXPECT_FALSE(ranges_intersect(left.view(), right.view()));
  const Shaped backwards({4}, {-1}, kFloat32, base + 16);
  EXPECT_TRUE(ranges_intersect(left.view(), backwards.view()));
}

TEST(RangesIntersect, EmptyOnesDoNot) {
  const Shaped empty({0, 4}, {4, 1}, kFloat32, Shaped::aligned_address());
  EXPECT_FALSE(ranges_intersect(empty.view(), empty.view()));
}

// Strides that sums of strides cannot hold. The sanitised run reports what overflows.
TEST(HugeStrides, OverflowNothing) {
  const auto ask = [](const Shaped& shaped) {
    const TensorView view = shaped.view();
    const Shaped other({3}, {5}, kInt8, Shaped::aligned_address());
    Dims dense(static_cast<size_t>(view.ndim));
    dense_strides_like(view, dense.data());
    const bool meets = elements_intersect(view, other.view());
    EXPECT_EQ(elements_intersect(other.view(), view), meets);
    EXPECT_EQ(meets, !view.is_empty());
    EXPECT_GE(view.nbytes(), 0);
    std::vector<LoopDim> loops(dense.size());
    EXPECT_GE(coalesce(view, view, loops.data()), 1);
    static_cast<void>(is_contiguous(view));
    static_cast<void>(detail::is_plain_layout(view));
    return has_partial_overlap(view);
  };
  EXPECT_FALSE(ask(Shaped({0, 5, 7}, {1, kMax, kMax}, kInt8, Shaped::aligned_address())));
  EXPECT_FALSE(ask(Shaped({0, 5, 7}, {kMin, kMin, kMin}, kInt8, Shaped::aligned_address())));
  EXPECT_FALSE(ask(Shaped({1, 2}, {kMax, 1}, kInt8, Shaped::aligned_address())));
  // Accepted of a descriptor: the elements lie 2^62 bytes apart.
  EXPECT_FALSE(ask(Shaped({2, 3}, {int64_t{1} << 62, 1}, kInt8, Shaped::aligned_address())));
  // What as_strided() of NumPy can make.
  EXPECT_FALSE(ask(Shaped({3, 3}, {int64_t{1} << 62, 1}, kInt8, Shaped::aligned_address())));
  EXPECT_TRUE(ask(Shaped({3, 3}, {kMin, 1}, kInt8, Shaped::aligned_address())));
}

// Pairs of byte offsets that a walk of the loops visits.
std::multiset<std::pair<int64_t, int64_t>> visited(const std::vector<LoopDim>& loops) {
  Dims shape;
  for (const LoopDim& loop : loops) shape.push_back(loop.extent);
  std::multiset<std::pair<int64_t, int64_t>> pairs;
  for_each_index(shape, [&](const Dims& index) {
    std::pair<int64_t, int64_t> at{0, 0};
    for (size_t i = 0; i < loops.size(); ++i) {
      at.first += index[i] * loops[i].dst_stride_bytes;
      at.second += index[i] * loops[i].src_stride_bytes;
    }
    pairs.insert(at);
  });
  return pairs;
}

std::vector<LoopDim> coalesced(const TensorView& dst, const TensorView& src) {
  std::vector<LoopDim> loops(static_cast<size_t>(dst.ndim));
  loops.resize(static_cast<size_t>(coalesce(dst, src, loops.data())));
  return loops;
}

TEST(Coalesce, ContiguousPairIsOneLoop) {
  const Shaped both({4, 5, 6});
  const auto loops = coalesced(both.view(), both.view());
  ASSERT_EQ(loops.size(), 1u);
  EXPECT_EQ(loops[0].extent, 120);
  EXPECT_EQ(loops[0].dst_stride_bytes, 4);
  EXPECT_EQ(loops[0].src_stride_bytes, 4);
}

TEST(Coalesce, OneElementIsNoLoop) {
  const Shaped one({1, 1}, {9, 9});
  EXPECT_TRUE(coalesced(one.view(), one.view()).empty());
  const Shaped scalar({}, {});
  EXPECT_TRUE(coalesced(scalar.view(), scalar.view()).empty());
}

TEST(Coalesce, SamePermutationIsOneLoop) {
  const Shaped both({4, 5, 6}, {1, 24, 4});
  EXPECT_EQ(coalesced(both.view(), both.view()).size(), 1u);
}

TEST(Coalesce, MergesOnlyInBoth) {
  const Shaped dst({4, 5, 6});
  const Shaped src({4, 5, 6}, {60, 6, 1});  // a gap after each plane
  const auto loops = coalesced(dst.view(), src.view());
  ASSERT_EQ(loops.size(), 2u);
  EXPECT_EQ(loops[0].extent, 30);
  EXPECT_EQ(loops[1].extent, 4);
}

TEST(Coalesce, VisitsEachPairOnce) {
  RandomLayouts random(99);
  for (int i = 0; i < 3000; ++i) {
    const Shaped dst = random.draw(4, 4, 30);
    const Dims shape(dst.view().extents().begin(), dst.view().extents().end());
    if (dst.view().size() == 0) continue;
    Dims strides;
    for (size_t d = 0; d < shape.size(); ++d) strides.push_back(random.between(-30, 30));
    const Shaped src(shape, strides, kInt8);
    std::multiset<std::pair<int64_t, int64_t>> expected;
    for_each_index(shape, [&](const Dims& index) {
      expected.insert({offset_bytes(dst.view(), index), offset_bytes(src.view(), index)});
    });
    const auto loops = coalesced(dst.view(), src.view());
    ASSERT_EQ(visited(loops), expected) << text_of(dst.view()) << text_of(src.view());
    for (size_t d = 1; d < loops.size(); ++d)
      ASSERT_LE(std::abs(loops[d - 1].dst_stride_bytes), std::abs(loops[d].dst_stride_bytes));
  }
}

Dims dense_like(const TensorView& view) {
  Dims out(static_cast<size_t>(view.ndim));
  dense_strides_like(view, out.data());
  return out;
}

TEST(DenseStridesLike, KeepsDimensionOrder) {
  EXPECT_EQ(dense_like(Shaped({2, 3}, {3, 1}).view()), (Dims{3, 1}));
  EXPECT_EQ(dense_like(Shaped({2, 3}, {1, 2}).view()), (Dims{1, 2}));
  EXPECT_EQ(dense_like(Shaped({2, 3, 4}, {4, 100, 1}).view()), (Dims{4, 8, 1}));
  EXPECT_EQ(dense_like(Shaped({}, {}).view()), Dims{});
}

TEST(DenseStridesLike, ClosesGaps) {
  EXPECT_EQ(dense_like(Shaped({2, 3}, {-30, 10}).view()), (Dims{3, 1}));
  EXPECT_EQ(dense_like(Shaped({2, 3}, {-1, -2}).view()), (Dims{1, 2}));
}

TEST(DenseStridesLike, ExpandsBroadcasts) {
  EXPECT_EQ(dense_like(Shaped({4, 3}, {0, 1}).view()), (Dims{3, 1}));
  EXPECT_EQ(dense_like(Shaped({4, 3}, {0, 0}).view()), (Dims{3, 1}));
}

TEST(DenseStridesLike, IgnoresExtentOne) {
  EXPECT_EQ(dense_like(Shaped({2, 1, 3}, {1, 2, 2}).view())[0], 1);
  EXPECT_EQ(dense_like(Shaped({2, 1, 3}, {1, 2, 2}).view())[2], 2);
}

// Whatever the input: dense, without overlap, and in the order of the strides where there are any.
TEST(DenseStridesLike, IsDenseAndOrdered) {
  RandomLayouts random(7);
  for (int i = 0; i < 5000; ++i) {
    const Shaped layout = random.draw(5, 3, 40);
    const TensorView view = layout.view();
    if (view.size() == 0) continue;
    const Dims dense = dense_like(view);
    const Shaped result(Dims(view.shape, view.shape + view.ndim), dense, kInt8);
    const auto range = byte_range(view.extents(), dense, 1);
    ASSERT_TRUE(range.has_value());
    ASSERT_EQ(range->before, 0);
    ASSERT_EQ(range->after, view.size()) << text_of(view);
    ASSERT_FALSE(has_partial_overlap(result.view())) << text_of(view);
    for (int32_t a = 0; a < view.ndim; ++a) {
      for (int32_t b = 0; b < view.ndim; ++b) {
        const bool counts = view.shape[a] > 1 && view.shape[b] > 1 && view.strides[b] != 0;
        if (!counts || std::abs(view.strides[a]) <= std::abs(view.strides[b])) continue;
        ASSERT_GT(dense[static_cast<size_t>(a)], dense[static_cast<size_t>(b)]) << text_of(view);
      }
    }
  }
}

TEST(DenseStridesLike, TakesRankSeventy) {
  Dims shape(70, 1);
  shape[0] = 2;
  shape[69] = 3;
  const Dims dense = dense_like(Shaped(shape, Dims(70, 1)).view());
  EXPECT_EQ(dense[0], 3);
  EXPECT_EQ(dense[69], 1);
}

}  // namespace
}  // namespace dlbridge
