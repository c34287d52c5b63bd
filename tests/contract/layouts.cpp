// SPDX-License-Identifier: Apache-2.0
#include "layouts.h"

#include <algorithm>
#include <numeric>

namespace dlbridge::contract {
namespace {

Dims identity(size_t rank) {
  Dims order(rank);
  std::iota(order.begin(), order.end(), int64_t{0});
  return order;
}

std::string text(const Dims& numbers) {
  std::string all;
  for (const int64_t number : numbers) all += (all.empty() ? "" : ",") + std::to_string(number);
  return "(" + all + ")";
}

class Pairs {
 public:
  void add(std::string name, const Dims& shape, const Dims& source, const Dims& target) {
    pairs_.push_back(
        {std::move(name) + " " + text(shape) + " " + text(source) + " to " + text(target), shape,
         source, target});
  }

  // Sources of all kinds into a dense target, and into one with gaps that runs the other way.
  void add_source(const std::string& name, const Dims& shape, const Dims& source) {
    add(name, shape, source, row_major(shape));
    add(name, shape, source, flipped(reversed(shape, 3, 2), 1));
  }
  void add_target(const std::string& name, const Dims& shape, const Dims& target) {
    add(name, shape, row_major(shape), target);
    add(name, shape, flipped(reversed(shape, 1), 2), target);
  }

  void add_orders(const Dims& shape) {
    Dims order = identity(shape.size());
    do {
      add_source("permuted", shape, dense(shape, order));
      add_target("into permuted", shape, dense(shape, order));
    } while (std::next_permutation(order.begin(), order.end()));
  }

  std::vector<LayoutPair> take() { return std::move(pairs_); }

 private:
  std::vector<LayoutPair> pairs_;
};

std::vector<LayoutPair> make_pairs() {
  Pairs pairs;
  pairs.add_orders({5, 6, 7});
  pairs.add_orders({3, 4, 2, 5});
  const Dims cube{5, 6, 7};
  for (unsigned mask = 1; mask < 8; ++mask) {
    pairs.add_source("negative", cube, flipped(row_major(cube), mask));
    pairs.add_source("broadcast", cube, broadcast(row_major(cube), mask));
    pairs.add_target("into negative", cube, flipped(row_major(cube), mask));
  }
  pairs.add_source("broadcast, backwards", cube, broadcast(flipped(reversed(cube), 4), 1));
  pairs.add_source("stepped", cube, row_major(cube, 0, 2));
  pairs.add_source("stepped, permuted, backwards", cube, flipped(dense(cube, {1, 2, 0}, 1, 3), 5));
  pairs.add_target("into stepped", cube, row_major(cube, 0, 3));
  pairs.add_target("into gaps", cube, row_major(cube, 5));
  pairs.add_source("windows that overlap", {20, 8}, {1, 1});
  pairs.add_source("every second", {1000}, {2});
  pairs.add_source("backwards", {1000}, {-1});
  pairs.add_source("transposed", {70, 90}, {1, 70});
  pairs.add_source("transposed, planes apart", {3, 40, 40}, {1700, 1, 42});
  pairs.add_source("pixels from planes", {20, 30, 3}, {30, 1, 600});
  pairs.add("wide rows", {4, 4100}, {5000, 1}, {4100, 1});
  pairs.add("into wide rows", {4, 4100}, {4100, 1}, {4500, 1});
  pairs.add("wide rows into others", {4, 4100}, {5000, 1}, {4500, 1});
  pairs.add("boxes", {3, 2, 4100}, {20000, 5000, 1}, {8200, 4100, 1});
  pairs.add("boxes into boxes", {3, 2, 4100}, {20000, 5000, 1}, {9000, 4500, 1});
  pairs.add("boxes, backwards", {3, 2, 4100}, {-20000, 5000, 1}, {8200, 4100, 1});
  pairs.add("one element", {}, {}, {});
  pairs.add("extents of one, odd strides", {1, 1, 1}, {-7, INT64_MAX, 0}, {INT64_MIN, 3, -1});
  pairs.add("extents of one among others", {1, 5, 1, 3}, {-9, 3, INT64_MIN, 1}, {0, 4, 77, 1});
  pairs.add("empty", {0}, {1}, {1});
  pairs.add("empty, odd strides", {3, 0, 2}, {-5, INT64_MAX, 0}, {0, 0, INT64_MIN});
  pairs.add("empty, huge extents", {INT64_MAX, 0, INT64_MAX}, {9, -9, 9}, {1, 1, 1});
  const Dims many(12, 2);
  pairs.add_source("twelve dimensions", many, reversed(many));
  Dims widest(64, 1);
  Dims backwards(64, -3);
  Dims forwards(64, 5);
  for (size_t i = 0; i < 10; ++i) {
    widest[6 * i + 1] = 2;
    backwards[6 * i + 1] = int64_t{1} << i;
    forwards[6 * i + 1] = int64_t{1} << (9 - i);
  }
  pairs.add("64 dimensions", widest, backwards, forwards);
  return pairs.take();
}

}  // namespace

Dims dense(const Dims& shape, const Dims& order, int64_t gap, int64_t step) {
  Dims strides(shape.size());
  int64_t stride = 1;
  for (size_t i = order.size(); i-- > 0;) {
    const auto dim = static_cast<size_t>(order[i]);
    strides[dim] = stride * step;
    stride = stride * shape[dim] + (i + 1 == order.size() ? gap : 0);
  }
  return strides;
}

Dims row_major(const Dims& shape, int64_t gap, int64_t step) {
  return dense(shape, identity(shape.size()), gap, step);
}

Dims reversed(const Dims& shape, int64_t gap, int64_t step) {
  Dims order = identity(shape.size());
  std::ranges::reverse(order);
  return dense(shape, order, gap, step);
}

Dims flipped(Dims strides, unsigned mask) {
  for (size_t i = 0; i < strides.size(); ++i) {
    if (mask >> i & 1) strides[i] = -strides[i];
  }
  return strides;
}

Dims broadcast(Dims strides, unsigned mask) {
  for (size_t i = 0; i < strides.size(); ++i) {
    if (mask >> i & 1) strides[i] = 0;
  }
  return strides;
}

const std::vector<LayoutPair>& layout_pairs() {
  static const std::vector<LayoutPair> pairs = make_pairs();
  return pairs;
}

const std::vector<NamedDType>& dtypes() {
  static const std::vector<NamedDType> types{
      {DType(TypeCode::boolean, 8)},
      {DType(TypeCode::bfloat, 16)},
      {DType(TypeCode::uint, 8, 3)},
      {DType(TypeCode::float_, 32)},
      {DType(TypeCode::float_, 16, 3)},
      {DType(TypeCode::complex, 64)},
      {DType(TypeCode::float_, 32, 3)},
      {DType(TypeCode::complex, 128)},
      {DType(TypeCode::float_, 64, 3)},
      {DType(TypeCode::float_, 64, 4)},
      {kFloat4Padded, true},
      {DType(TypeCode::float6_e2m3fn, 6), true},
      {kFloat4Pair},
  };
  return types;
}

const std::vector<DType>& packed_dtypes() {
  static const std::vector<DType> types{DType(TypeCode::uint, 1), DType(TypeCode::int_, 2),
                                        DType(TypeCode::uint, 4), DType(TypeCode::float6_e3m2fn, 6),
                                        kFloat4Padded};
  return types;
}

}  // namespace dlbridge::contract
