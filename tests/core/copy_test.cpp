// SPDX-License-Identifier: Apache-2.0
// copy_host and cast_host against naive element loops, over pairs of layouts and types, with
// poisoned destinations between guard bytes; repack_float4 both ways; allocate_like.
#include "dlbridge/copy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <random>
#include <type_traits>

#include "dlbridge/layout.h"
#include "errors.h"
#include "memory.h"
#include "shaped.h"

namespace dlbridge {
namespace {

using test::for_each_index;
using test::GuardedBuffer;
using test::offset_bytes;
using test::Shaped;

using Dims = std::vector<int64_t>;

// How a layout departs from the compact one.
struct Kind {
  const char* name;
  bool reversed;  // dimensions in the other order (Fortran)
  bool rotated;   // first dimension innermost
  int negative;   // bit i: dimension i runs backwards
  int64_t gap;    // every stride times this
  int broadcast;  // bit i: dimension i has stride 0
};

constexpr Kind kKinds[] = {
    {"compact", false, false, 0, 1, 0},
    {"fortran", true, false, 0, 1, 0},
    {"rotated", false, true, 0, 1, 0},
    {"backwards", false, false, 7, 1, 0},
    {"last backwards", false, false, 4, 1, 0},
    {"fortran, first backwards", true, false, 1, 1, 0},
    {"gaps", false, false, 0, 3, 0},
    {"rotated gaps backwards", false, true, 2, 2, 0},
    {"broadcast first", false, false, 0, 1, 1},
    {"broadcast last", false, false, 0, 1, 4},
    {"broadcast all", false, false, 0, 1, 7},
};

// Memory in some layout: a guarded buffer and the view of it.
class Placed {
 public:
  Placed(const Dims& shape, DType dtype, const Kind& kind)
      : Placed(shape, dtype, strides_of(shape, kind)) {}

  Placed(const Dims& shape, DType dtype, const Dims& strides, size_t misaligned = 0)
      : range_(*byte_range(shape, strides, dtype.itemsize())),
        buffer_(static_cast<size_t>(range_.before + range_.after), misaligned),
        shaped_(shape, strides, dtype, buffer_.data() + range_.before) {}

  TensorView view() const { return shaped_.view(); }
  GuardedBuffer& buffer() { return buffer_; }

 private:
  static Dims strides_of(const Dims& shape, const Kind& kind) {
    const size_t n = shape.size();
    Dims order;  // outermost first
    for (size_t i = 0; i < n; ++i)
      order.push_back(static_cast<int64_t>(kind.reversed ? n - 1 - i : i));
    if (kind.rotated && n > 0) std::rotate(order.begin(), order.begin() + 1, order.end());
    Dims strides(n);
    int64_t stride = kind.gap;
    for (size_t i = n; i-- > 0;) {
      const auto dim = static_cast<size_t>(order[i]);
      const int bit = 1 << dim;
      strides[dim] = kind.broadcast & bit ? 0 : kind.negative & bit ? -stride : stride;
      if (!(kind.broadcast & bit)) stride *= shape[dim];
    }
    return strides;
  }

  ByteRange range_;
  GuardedBuffer buffer_;
  Shaped shaped_;
};

void copy_naively(const TensorView& src, const TensorView& dst) {
  for_each_index(dst.extents(), [&](const Dims& index) {
    std::memcpy(static_cast<char*>(dst.data) + offset_bytes(dst, index),
                static_cast<const char*>(src.data) + offset_bytes(src, index),
                static_cast<size_t>(dst.itemsize()));
  });
}

// The bytes between elements must stay poisoned, so whole buffers are compared.
void expect_copied(Placed& src, Placed& dst, Placed& expected) {
  src.buffer().fill_with_pattern(1);
  copy_naively(src.view(), expected.view());
  copy_host(src.view(), dst.view());
  EXPECT_EQ(std::memcmp(dst.buffer().data(), expected.buffer().data(), dst.buffer().size()), 0);
  EXPECT_TRUE(dst.buffer().guards_intact());
  EXPECT_TRUE(src.buffer().guards_intact());
}

class CopyHost : public testing::TestWithParam<int> {
 protected:
  static DType dtype() { return DType(TypeCode::uint, 8 * GetParam()); }
};

TEST_P(CopyHost, AgreesWithNaiveLoop) {
  for (const Dims& shape : {Dims{3, 4, 5}, Dims{1, 7, 2}, Dims{33, 2, 65}, Dims{6}, Dims{40, 70}}) {
    for (const Kind& from : kKinds) {
      for (const Kind& to : kKinds) {
        if (to.broadcast != 0) continue;
        SCOPED_TRACE(std::string(from.name) + " to " + to.name);
        Placed src(shape, dtype(), from);
        Placed dst(shape, dtype(), to);
        Placed expected(shape, dtype(), to);
        expect_copied(src, dst, expected);
      }
    }
  }
}

TEST_P(CopyHost, CopiesOneElement) {
  for (const Dims& shape : {Dims{}, Dims{1}, Dims{1, 1, 1}}) {
    Placed src(shape, dtype(), kKinds[0]);
    Placed dst(shape, dtype(), kKinds[0]);
    Placed expected(shape, dtype(), kKinds[0]);
    expect_copied(src, dst, expected);
  }
}

TEST_P(CopyHost, WritesNothingWhenEmpty) {
  GuardedBuffer buffer(64);
  const Shaped src({0, 3}, {3, 1}, dtype(), nullptr);
  const Shaped dst({0, 3}, {3, 1}, dtype(), buffer.data());
  copy_host(src.view(), dst.view());
  for (size_t i = 0; i < buffer.size(); ++i) ASSERT_EQ(buffer.data()[i], GuardedBuffer::kPoison);
}

TEST_P(CopyHost, CopiesMisaligned) {
  GuardedBuffer from(static_cast<size_t>(12 * GetParam()), 1);
  GuardedBuffer to(static_cast<size_t>(12 * GetParam()), 3);
  from.fill_with_pattern(5);
  copy_host(Shaped({3, 4}, {1, 3}, dtype(), from.data()).view(),
            Shaped({3, 4}, {4, 1}, dtype(), to.data()).view());
  for (int64_t row = 0; row < 3; ++row) {
    for (int64_t column = 0; column < 4; ++column) {
      const auto size = static_cast<size_t>(GetParam());
      EXPECT_EQ(std::memcmp(to.data() + static_cast<size_t>(row * 4 + column) * size,
                            from.data() + static_cast<size_t>(row + column * 3) * size, size),
                0);
    }
  }
  EXPECT_TRUE(to.guards_intact());
}

// Rows at a multiple of 4096 bytes, which compete for the same places of a cache.
TEST_P(CopyHost, CopiesCrowdedRows) {
  const int64_t row = std::max<int64_t>(4096 / GetParam(), 256);
  for (const Dims& shape : {Dims{70, 90}, Dims{64, 64}, Dims{129, 65}, Dims{200, 33}}) {
    for (const auto& [from, to] :
         {std::pair(Dims{1, row}, Dims{shape[1], 1}), std::pair(Dims{1, shape[0]}, Dims{row, 1}),
          std::pair(Dims{-1, row}, Dims{row, 1}), std::pair(Dims{1, -row}, Dims{row, 1})}) {
      Placed src(shape, dtype(), from);
      Placed dst(shape, dtype(), to);
      Placed expected(shape, dtype(), to);
      expect_copied(src, dst, expected);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(ItemSizes, CopyHost, testing::Values(1, 2, 3, 4, 8, 16),
                         testing::PrintToStringParamName());

// Extents around the widths of vectors and tiles, in any order, direction and density.
class RandomLayouts {
 public:
  explicit RandomLayouts(unsigned seed) : random_(seed) {}

  Dims shape() {
    Dims dims(pick({1, 2, 2, 3, 3, 4}));
    int64_t room = 20000;
    for (int64_t& extent : dims) {
      extent = std::min<int64_t>(pick({1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 67}), room);
      room = std::max<int64_t>(room / extent, 1);
    }
    return dims;
  }

  Dims strides(const Dims& shape, bool gaps) {
    Dims order(shape.size());
    std::iota(order.begin(), order.end(), 0);
    if (pick({0, 1, 1}) != 0) std::shuffle(order.begin(), order.end(), random_);
    Dims strides(shape.size());
    int64_t stride = gaps ? pick({1, 1, 1, 2, 3, 4, 5}) : 1;
    for (const int64_t dim : order) {
      const auto i = static_cast<size_t>(dim);
      strides[i] = stride * pick({1, 1, 1, -1});
      stride *= shape[i];
      if (gaps) stride += pick({0, 0, 0, 1, 3});
    }
    return strides;
  }

  int64_t pick(std::initializer_list<int64_t> choices) {
    return choices.begin()[std::uniform_int_distribution<size_t>(0, choices.size() - 1)(random_)];
  }

 private:
  std::mt19937 random_;
};

TEST(CopyHost, AgreesWithNaiveLoopOverRandomLayouts) {
  for (unsigned seed = 0; seed < 3000; ++seed) {
    RandomLayouts random(seed);
    const DType dtype(TypeCode::uint,
                      static_cast<int>(8 * random.pick({1, 2, 3, 4, 5, 6, 8, 12, 16})));
    const Dims shape = random.shape();
    const Dims from = random.strides(shape, true);
    const Dims to = random.strides(shape, random.pick({0, 0, 0, 1}) != 0);
    SCOPED_TRACE("seed " + std::to_string(seed));
    Placed src(shape, dtype, from, static_cast<size_t>(random.pick({0, 0, 1, 3, 8})));
    const auto misaligned = static_cast<size_t>(random.pick({0, 0, 1, 5, 16}));
    Placed dst(shape, dtype, to, misaligned);
    Placed expected(shape, dtype, to, misaligned);
    expect_copied(src, dst, expected);
    if (HasFailure()) return;
  }
}

// Shared by threads: few long and many short dimensions, whichever of them is cut.
TEST(CopyHost, AgreesWithNaiveLoopOverLargeLayouts) {
  set_num_threads(4);
  for (const auto& [shape, strides] :
       {std::pair<Dims, Dims>{{8, 1100, 64}, {64, 512, 1}},
        {{1100, 8, 64}, {64, 70400, 1}},
        {{65, 67, 131}, {1, 65, 4355}},
        {{3, 190000}, {1, 3}},
        {{190000, 3}, {1, 190000}},
        {{2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2},
         {1 << 19, 1 << 17, 1 << 18, 1 << 15, 1 << 16, 1 << 13, 1 << 14, 1 << 11, 1 << 12, 1 << 9,
          1 << 10, 1 << 7,  1 << 8,  1 << 5,  1 << 6,  1 << 3,  1 << 4,  1 << 1,  1 << 2,  1}}}) {
    for (const int bits : {8, 16, 64}) {
      const DType dtype(TypeCode::uint, bits);
      Placed src(shape, dtype, strides, 0);
      Placed dst(shape, dtype, test::row_major(shape), 0);
      Placed expected(shape, dtype, test::row_major(shape), 0);
      expect_copied(src, dst, expected);
    }
  }
  set_num_threads(0);
}

// A value of an element type, and how it is written.
template <typename T>
struct Plain {
  static double read(const void* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return static_cast<double>(value);
  }
  static void write(void* to, double value) {
    const auto cast = static_cast<T>(value);
    std::memcpy(to, &cast, sizeof cast);
  }
};

struct Number {
  DType dtype;
  double (*read)(const void*);
  void (*write)(void*, double);
};
template <typename T>
constexpr Number number(TypeCode code) {
  return {DType(code, 8 * sizeof(T)), Plain<T>::read, Plain<T>::write};
}
constexpr Number kNumbers[] = {number<bool>(TypeCode::boolean), number<uint8_t>(TypeCode::uint),
                               number<int8_t>(TypeCode::int_),  number<uint16_t>(TypeCode::uint),
                               number<int16_t>(TypeCode::int_), number<uint32_t>(TypeCode::uint),
                               number<int32_t>(TypeCode::int_), number<uint64_t>(TypeCode::uint),
                               number<int64_t>(TypeCode::int_), number<float>(TypeCode::float_),
                               number<double>(TypeCode::float_)};

bool is_float(DType dtype) { return dtype.code() == TypeCode::float_; }

TEST(CastHost, AgreesWithElementCastsOverRandomLayouts) {
  for (unsigned seed = 0; seed < 3000; ++seed) {
    RandomLayouts random(seed);
    const Number& from = kNumbers[random.pick({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10})];
    const Number& to = kNumbers[random.pick({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10})];
    SCOPED_TRACE("seed " + std::to_string(seed) + ", " + from.dtype.name() + " to " +
                 to.dtype.name());
    const Dims shape = random.shape();
    Placed src(shape, from.dtype, random.strides(shape, true),
               static_cast<size_t>(random.pick({0, 0, 1, 8})));
    const Dims strides = random.strides(shape, random.pick({0, 0, 0, 1}) != 0);
    Placed dst(shape, to.dtype, strides);
    Placed expected(shape, to.dtype, strides);
    int64_t next = 0;
    bool fits = true;
    for_each_index(shape, [&](const Dims& index) {
      // Small ones, and some beyond 32 bits where the source has them.
      const double value = static_cast<double>(next % 120) * (next % 7 == 0 ? 20000019.0 : 1.0);
      from.write(static_cast<char*>(src.view().data) + offset_bytes(src.view(), index),
                 from.dtype.itemsize() < 8 ? static_cast<double>(next % 120) : value);
      ++next;
    });
    for_each_index(shape, [&](const Dims& index) {
      const double value =
          from.read(static_cast<char*>(src.view().data) + offset_bytes(src.view(), index));
      auto* at = static_cast<char*>(expected.view().data) + offset_bytes(expected.view(), index);
      // An integer keeps its low bits.
      if (is_float(to.dtype) || to.dtype.code() == TypeCode::boolean) {
        to.write(at, value);
      } else {
        const auto whole = static_cast<int64_t>(value);
        const int bits = to.dtype.item_bits() - (to.dtype.code() == TypeCode::int_ ? 1 : 0);
        fits &= !is_float(from.dtype) || value < std::ldexp(1.0, bits);
        std::memcpy(at, &whole, static_cast<size_t>(to.dtype.itemsize()));
      }
    });
    const bool done = cast_host(src.view(), dst.view());
    if (!fits) {
      EXPECT_FALSE(done);
    }
    if (!done) continue;
    EXPECT_EQ(std::memcmp(dst.buffer().data(), expected.buffer().data(), dst.buffer().size()), 0);
    EXPECT_TRUE(dst.buffer().guards_intact());
    if (HasFailure()) return;
  }
}

TEST(CastHost, RoundsAndKeepsSpecials) {
  const double from[] = {1e300, -1e300, 1.0 / 3, -0.0, std::nan(""), INFINITY, 16777217.0};
  float to[7] = {};
  ASSERT_TRUE(
      cast_host(Shaped({7}, {1}, DType(TypeCode::float_, 64), const_cast<double*>(from)).view(),
                Shaped({7}, {1}, test::kFloat32, to).view()));
  for (size_t i = 0; i < 7; ++i) {
    const auto expected = static_cast<float>(from[i]);
    EXPECT_EQ(std::memcmp(&to[i], &expected, sizeof expected), 0) << from[i];
  }
}

TEST(CastHost, LongIntegersBeyond32Bits) {
  std::vector<int64_t> from(1000);
  for (size_t i = 0; i < from.size(); ++i)
    from[i] = i == 700 ? (int64_t{1} << 40) + 1 : static_cast<int64_t>(i) * -1000003;
  std::vector<double> to(from.size());
  ASSERT_TRUE(cast_host(Shaped({1000}, {1}, DType(TypeCode::int_, 64), from.data()).view(),
                        Shaped({1000}, {1}, DType(TypeCode::float_, 64), to.data()).view()));
  for (size_t i = 0; i < from.size(); ++i) EXPECT_EQ(to[i], static_cast<double>(from[i]));
}

// The last of 300 elements, which the kernel sees in its second block, and in the last of 40001,
// which threads share.
template <typename From, typename To>
void expect_cast_if_it_fits(From value, bool fits) {
  const DType from_type(TypeCode::float_, 8 * sizeof(From));
  const DType to_type(std::is_signed_v<To> ? TypeCode::int_ : TypeCode::uint, 8 * sizeof(To));
  for (const int64_t count : {300, 400001}) {
    std::vector<From> from(static_cast<size_t>(count), From{7});
    std::vector<To> to(from.size());
    from.back() = value;
    SCOPED_TRACE(from_type.name() + " " + std::to_string(value) + " to " + to_type.name());
    EXPECT_EQ(cast_host(Shaped({count}, {1}, from_type, from.data()).view(),
                        Shaped({count}, {1}, to_type, to.data()).view()),
              fits);
    if (!fits) continue;
    EXPECT_EQ(to.back(), static_cast<To>(value));
    EXPECT_EQ(to.front(), 7);
  }
}

template <typename From, typename To>
void expect_casts_of_what_fits() {
  const From end = std::ldexp(From{1}, std::numeric_limits<To>::digits);
  const From least = static_cast<From>(std::numeric_limits<To>::min());
  for (const From value : {std::nextafter(end, From{0}), least, From{-0.5}, From{-0.0}})
    expect_cast_if_it_fits<From, To>(value, true);
  for (const From value :
       {end, -end * 2, std::nextafter(least - 1, -end * 2), std::numeric_limits<From>::quiet_NaN(),
        std::numeric_limits<From>::infinity(), -std::numeric_limits<From>::infinity()})
    expect_cast_if_it_fits<From, To>(value, false);
}

TEST(CastHost, FloatsThatFitTheInteger) {
  expect_casts_of_what_fits<float, uint8_t>();
  expect_casts_of_what_fits<float, int16_t>();
  expect_casts_of_what_fits<float, int32_t>();
  expect_casts_of_what_fits<float, uint64_t>();
  expect_casts_of_what_fits<double, int8_t>();
  expect_casts_of_what_fits<double, uint32_t>();
  expect_casts_of_what_fits<double, int64_t>();
  expect_casts_of_what_fits<double, uint64_t>();
}

// Halves are cast where the CPU has instructions for them.
TEST(CastHost, HalvesAndBrainFloats) {
  const DType half(TypeCode::float_, 16);
  const float values[] = {0.0F,     1.0F,          -2.5F,   65504.0F, 1e6F,
                          1.0F / 3, 5.9604645e-8F, 6.1e-5F, -0.0F,    2049.0F};
  uint16_t halves[10] = {};
  if (cast_host(Shaped({10}, {1}, test::kFloat32, const_cast<float*>(values)).view(),
                Shaped({10}, {1}, half, halves).view())) {
    const uint16_t expected[] = {0x0000, 0x3C00, 0xC100, 0x7BFF, 0x7C00,
                                 0x3555, 0x0001, 0x03FF, 0x8000, 0x6800};
    EXPECT_EQ(std::memcmp(halves, expected, sizeof expected), 0);
    float back[10] = {};
    ASSERT_TRUE(cast_host(Shaped({10}, {1}, half, halves).view(),
                          Shaped({10}, {1}, test::kFloat32, back).view()));
    EXPECT_EQ(back[2], -2.5F);
    EXPECT_EQ(back[4], INFINITY);
    EXPECT_EQ(back[6], 5.9604645e-8F);
    EXPECT_EQ(back[9], 2048.0F);
    // Each is nearer to another half than the float between is: a cast by way of it rounds twice.
    const double fine[] = {1 + 0x1p-11 + 0x1p-40, -(1 + 0x3p-11 - 0x1p-40), 65519.9999999, -1e300,
                           0x1p-25 + 0x1p-60};
    const uint16_t nearest[] = {0x3C01, 0xBC01, 0x7BFF, 0xFC00, 0x0001};
    ASSERT_TRUE(cast_host(Shaped({5}, {1}, test::kFloat64, const_cast<double*>(fine)).view(),
                          Shaped({5}, {1}, half, halves).view()));
    EXPECT_EQ(std::memcmp(halves, nearest, sizeof nearest), 0);
  }
  const uint16_t brain[] = {0x3F80, 0xC020, 0x7F80};
  float wide[3] = {};
  ASSERT_TRUE(
      cast_host(Shaped({3}, {1}, DType(TypeCode::bfloat, 16), const_cast<uint16_t*>(brain)).view(),
                Shaped({3}, {1}, test::kFloat32, wide).view()));
  EXPECT_EQ(wide[0], 1.0F);
  EXPECT_EQ(wide[1], -2.5F);
  EXPECT_EQ(wide[2], INFINITY);
}

TEST(CastHost, LeavesTheRestToFrameworks) {
  char from[64] = {};
  char to[64] = {};
  const Shaped complex_from({2}, {1}, DType(TypeCode::complex, 64), from);
  const Shaped floats({2}, {1}, test::kFloat32, from);
  EXPECT_FALSE(
      cast_host(complex_from.view(), Shaped({2}, {1}, DType(TypeCode::complex, 128), to).view()));
  EXPECT_FALSE(cast_host(floats.view(), Shaped({2}, {3}, DType(TypeCode::float_, 64), to).view()));
}

struct Large {
  const char* name;
  Dims shape;
  Dims src_strides;
  Dims dst_strides;
};

void PrintTo(const Large& row, std::ostream* out) { *out << row.name; }

class LargeCopy : public testing::TestWithParam<Large> {};

// 8 MiB and a little more of four-byte elements: enough for threads, and not a multiple of
// anything.
TEST_P(LargeCopy, AgreesWithNaiveLoop) {
  const Large& row = GetParam();
  const DType dtype(TypeCode::uint, 32);
  Placed src(row.shape, dtype, row.src_strides);
  Placed dst(row.shape, dtype, row.dst_strides);
  Placed expected(row.shape, dtype, row.dst_strides);
  ASSERT_GE(dst.view().nbytes(), int64_t{8} << 20);
  expect_copied(src, dst, expected);
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, LargeCopy,
    testing::Values(Large{"Contiguous", {2097153}, {1}, {1}},
                    Large{"Backwards", {2097153}, {-1}, {1}},
                    Large{"Broadcast", {2097153}, {0}, {1}},
                    Large{"Transposed", {1449, 1451}, {1, 1449}, {1451, 1}},
                    Large{"TransposedDestination", {1449, 1451}, {1451, 1}, {1, 1449}},
                    Large{"Gapped", {1449, 1451}, {2902, 2}, {1451, 1}},
                    Large{"ThreeOuterRows", {3, 699053}, {700000, 1}, {699053, 1}},
                    Large{"OneOuterRow", {1, 2097153}, {5, 2}, {5, 1}},
                    Large{"Planes", {3, 1003, 701}, {1, 2103, 3}, {703103, 701, 1}},
                    Large{"PlanesBackwards", {3, 1003, 701}, {1, 2103, -3}, {703103, 701, 1}},
                    Large{"Pixels", {1003, 701, 3}, {701, 1, 703103}, {2103, 3, 1}},
                    Large{"LongRows", {5, 1500000}, {1600000, 1}, {1500000, 1}},
                    Large{"TwoInner", {1048577, 2}, {1, 1048577}, {2, 1}},
                    Large{"Rotated", {101, 103, 211}, {1, 21311, 101}, {21733, 211, 1}}),
    [](const auto& row_info) { return std::string(row_info.param.name); });

TEST(CopyHost, CopiesRankSeventy) {
  Dims shape(70, 1);
  shape[3] = 2;
  shape[68] = 3;
  Dims strides(70, 1);
  strides[68] = 2;
  Placed src(shape, test::kInt32, strides);
  strides[3] = 3;
  strides[68] = 1;
  Placed dst(shape, test::kInt32, strides);
  Placed expected(shape, test::kInt32, strides);
  expect_copied(src, dst, expected);
}

TEST(CopyHost, CopiesPackedBytes) {
  GuardedBuffer from(8);
  GuardedBuffer to(8);
  from.fill_with_pattern(3);
  const DType int4(TypeCode::int_, 4);
  copy_host(Shaped({3, 3}, {3, 1}, int4, from.data()).view(),
            Shaped({3, 3}, {3, 1}, int4, to.data()).view());
  EXPECT_EQ(std::memcmp(from.data(), to.data(), 5), 0);
  EXPECT_EQ(to.data()[5], GuardedBuffer::kPoison);
}

TEST(RequireCopyable, RefusesRowByRow) {
  struct Row {
    const char* what;
    std::optional<ErrorCode> code;
    Dims shape, strides;  // of the destination
    std::function<void(TensorView&)> spoil = [](TensorView&) {};
  };
  using enum ErrorCode;
  const Row rows[] = {
      {"Fits", std::nullopt, {2, 3}, {3, 1}},
      {"AnyLayout", std::nullopt, {2, 3}, {-1, 2}},
      {"Pinned", std::nullopt, {2, 3}, {3, 1}, [](auto& v) { v.device.device_type = kDLCUDAHost; }},
      {"Gpu", unsupported_device, {2, 3}, {3, 1}, [](auto& v) { v.device.device_type = kDLCUDA; }},
      {"Managed",
       unsupported_device,
       {2, 3},
       {3, 1},
       [](auto& v) { v.device.device_type = kDLCUDAManaged; }},
      {"OtherDtype", unsupported_dtype, {2, 3}, {3, 1}, [](auto& v) { v.dtype = test::kInt32; }},
      {"OtherPadding", unsupported_dtype, {2, 3}, {3, 1}, [](auto& v) { v.subbyte_padded = true; }},
      {"OtherExtent", shape_mismatch, {3, 2}, {2, 1}},
      {"OtherRank", shape_mismatch, {6}, {1}},
      {"ReadOnly", read_only, {2, 3}, {3, 1}, [](auto& v) { v.access = Access::read_only; }},
      {"UnknownAccess", read_only, {2, 3}, {3, 1}, [](auto& v) { v.access = Access::unknown; }},
      {"Broadcast", overlap, {2, 3}, {0, 1}},
      {"PartialOverlap", overlap, {2, 3}, {1, 1}},
  };
  GuardedBuffer from(24);
  GuardedBuffer to(64);
  const Shaped src({2, 3}, {3, 1}, test::kFloat32, from.data());
  for (const Row& row : rows) {
    const Shaped shaped(row.shape, row.strides, test::kFloat32, to.data() + 16);
    TensorView dst = shaped.view();
    row.spoil(dst);
    const auto error = test::error_of([&] { require_copyable(src.view(), dst); });
    ASSERT_EQ(error.has_value(), row.code.has_value()) << row.what;
    if (error) {
      EXPECT_EQ(name(error->code()), name(*row.code)) << row.what;
    }
  }
}

TEST(RequireCopyable, AllowsInterleaved) {
  GuardedBuffer memory(64);
  const Shaped even({4}, {2}, test::kFloat32, memory.data());
  const Shaped odd({4}, {2}, test::kFloat32, memory.data() + 4);
  const Shaped askew({4}, {2}, test::kFloat32, memory.data() + 2);
  require_copyable(even.view(), odd.view());
  test::expect_error(ErrorCode::overlap, [&] { require_copyable(even.view(), even.view()); });
  test::expect_error(ErrorCode::overlap, [&] { require_copyable(even.view(), askew.view()); });
}

TEST(RequireCopyable, AllowsPackedNeighbours) {
  GuardedBuffer memory(8);
  const DType int4(TypeCode::int_, 4);
  const Shaped left({8}, {1}, int4, memory.data());
  const Shaped right({8}, {1}, int4, memory.data() + 4);
  require_copyable(left.view(), right.view());
  const Shaped between({8}, {1}, int4, memory.data() + 3);
  test::expect_error(ErrorCode::overlap, [&] { require_copyable(left.view(), between.view()); });
}

TEST(RequireCopyable, AllowsEmpty) {
  require_copyable(Shaped({0, 3}, {0, 0}).view(), Shaped({0, 3}, {0, 0}).view());
}

// A padded float4 view and one of pairs.
TensorView padded(Shaped& shaped) {
  shaped.fields().subbyte_padded = true;
  return shaped.view();
}

TEST(RepackFloat4, FirstIsTheLowNibble) {
  uint8_t pairs[] = {0x21, 0x43};
  uint8_t singles[4] = {0xFF, 0xFF, 0xFF, 0xFF};
  const Shaped from({2}, {1}, kFloat4Pair, pairs);
  Shaped to({4}, {1}, kFloat4Padded, singles);
  repack_float4(from.view(), padded(to));
  EXPECT_EQ(singles[0], 1);
  EXPECT_EQ(singles[1], 2);
  EXPECT_EQ(singles[2], 3);
  EXPECT_EQ(singles[3], 4);
}

TEST(RepackFloat4, IgnoresPaddingBits) {
  uint8_t singles[] = {0xF1, 0x72, 0x03, 0xE4};
  uint8_t pairs[2] = {};
  Shaped from({4}, {1}, kFloat4Padded, singles);
  const Shaped to({2}, {1}, kFloat4Pair, pairs);
  repack_float4(padded(from), to.view());
  EXPECT_EQ(pairs[0], 0x21);
  EXPECT_EQ(pairs[1], 0x43);
}

TEST(RepackFloat4, ReturnsToTheSameBytesThroughAnyLayout) {
  GuardedBuffer pairs(3 * 5 * 2);
  GuardedBuffer singles(3 * 5 * 4 * 2);
  GuardedBuffer back(3 * 5 * 2);
  pairs.fill_with_pattern(11);
  const Shaped from({3, 5, 2}, {2, 6, 1}, kFloat4Pair, pairs.data());
  Shaped middle({3, 5, 4}, {-40, 2, 10}, kFloat4Padded, singles.data() + 80);
  const Shaped to({3, 5, 2}, {2, 6, 1}, kFloat4Pair, back.data());
  repack_float4(from.view(), padded(middle));
  repack_float4(padded(middle), to.view());
  EXPECT_EQ(std::memcmp(pairs.data(), back.data(), pairs.size()), 0);
  EXPECT_TRUE(singles.guards_intact());
  EXPECT_TRUE(back.guards_intact());
}

TEST(RepackFloat4, TouchesNothingWhenEmpty) {
  uint8_t byte = 0xCD;
  const Shaped from({0}, {1}, kFloat4Pair, nullptr);
  Shaped to({0}, {1}, kFloat4Padded, &byte);
  repack_float4(from.view(), padded(to));
  EXPECT_EQ(byte, 0xCD);
}

TEST(AllocateLike, OwnsAlignedMemory) {
  Shaped like({3, 5});
  like.fields().access = Access::read_only;
  const Loan loan = allocate_like(like.view());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(loan.view().data) % 64, 0u);
  EXPECT_TRUE(loan.owns_memory());
  EXPECT_EQ(loan.view().access, Access::writable);
  EXPECT_TRUE(loan.view().is_copied);
  EXPECT_TRUE(DType(loan.view().dtype) == test::kFloat32);
  EXPECT_EQ(loan.view().flags(), kIsCopied);
  std::memset(loan.view().data, 1, 60);
}

TEST(AllocateLike, AllocatesOnTheHost) {
  Shaped like({3});
  like.fields().device = {kDLCUDA, 1};
  EXPECT_TRUE(Device(allocate_like(like.view()).view().device) == Device(DeviceType::cpu));
}

TEST(AllocateLike, KeepsDimensionOrder) {
  const Loan permuted = allocate_like(Shaped({2, 3}, {1, 2}).view());
  EXPECT_EQ(permuted.view().strides[0], 1);
  EXPECT_EQ(permuted.view().strides[1], 2);
  const Loan broadcast = allocate_like(Shaped({2, 3}, {0, 1}).view());
  EXPECT_EQ(broadcast.view().strides[0], 3);
  std::memset(broadcast.view().data, 1, 24);
}

TEST(AllocateLike, AllocatesForEmpty) {
  const Loan loan = allocate_like(Shaped({0, 3}).view());
  EXPECT_NE(loan.view().data, nullptr);
  EXPECT_EQ(loan.view().nbytes(), 0);
}

TEST(AllocateLike, KeepsPadding) {
  Shaped like({3, 3}, {3, 1}, DType(TypeCode::int_, 4));
  EXPECT_EQ(allocate_like(like.view()).view().nbytes(), 5);
  like.fields().subbyte_padded = true;
  const Loan loan = allocate_like(like.view());
  EXPECT_TRUE(loan.view().subbyte_padded);
  EXPECT_EQ(loan.view().nbytes(), 9);
}

}  // namespace
}  // namespace dlbridge
