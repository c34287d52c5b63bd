// SPDX-License-Identifier: Apache-2.0
// Random tensors by random ways: layouts, data types, alignments, streams and the device's own
// order of things are drawn from the seed that a failure names.
#include <algorithm>
#include <numeric>
#include <random>

#include "contract_test.h"

namespace dlbridge::contract {
namespace {

constexpr int kCases = 250;  // of one seed

class Draw {
 public:
  explicit Draw(uint64_t seed) : engine_(seed) {}

  int64_t upto(int64_t most) { return std::uniform_int_distribution<int64_t>(0, most)(engine_); }
  bool one_in(int64_t count) { return upto(count - 1) == 0; }
  template <typename Range>
  const auto& of(const Range& range) {
    return range[static_cast<size_t>(upto(static_cast<int64_t>(std::size(range)) - 1))];
  }

  Dims shape() {
    if (one_in(40)) return {upto(400000)};
    const bool many = one_in(15);
    Dims shape(static_cast<size_t>(many ? 7 + upto(57) : upto(6)), 1);
    int64_t elements = 1;
    for (size_t tries = shape.size(); tries-- > 0;) {
      const int64_t most = std::min<int64_t>(many ? 3 : 40, 4000 / std::max<int64_t>(elements, 1));
      if (many && !one_in(6)) continue;
      int64_t& extent = shape[static_cast<size_t>(upto(static_cast<int64_t>(shape.size()) - 1))];
      if (extent != 1) continue;
      extent = one_in(60) ? 0 : 1 + upto(std::max<int64_t>(most - 1, 0));
      elements *= extent;
    }
    return shape;
  }

  // Without overlap in itself.
  Dims strides(const Dims& shape) {
    Dims order(shape.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    if (!one_in(3)) std::shuffle(order.begin(), order.end(), engine_);
    Dims strides(shape.size());
    int64_t stride = one_in(3) ? 1 + upto(3) : 1;
    for (size_t i = order.size(); i-- > 0;) {
      const auto dim = static_cast<size_t>(order[i]);
      strides[dim] = one_in(6) ? -stride : stride;
      if (shape[dim] == 1 && one_in(2)) strides[dim] = upto(1000) - 500;
      stride *= std::max<int64_t>(shape[dim], 1);
      if (one_in(6)) stride += 1 + upto(4);
    }
    return strides;
  }

  Dims source_strides(const Dims& shape) {
    Dims drawn = strides(shape);
    if (one_in(5)) {
      for (int64_t& stride : drawn) stride = one_in(2) ? 0 : stride;
    }
    return drawn;
  }

  size_t misalignment() { return one_in(2) ? 0 : static_cast<size_t>(upto(20)); }

 private:
  std::mt19937_64 engine_;
};

class RandomLayouts : public ContractOf<uint64_t> {
 protected:
  void SetUp() override { begin(GetParam()); }

  void check_one(Draw& draw) {
    const Dims shape = draw.shape();
    const NamedDType& type = draw.of(dtypes());
    const Spec source{shape, draw.source_strides(shape), type.dtype, type.padded,
                      draw.misalignment()};
    const Spec target{shape, draw.strides(shape), type.dtype, type.padded, draw.misalignment()};
    const Stream streams[] = {stream(),
                              stream(),
                              stream(),
                              numbered(cuda::kLegacyStream),
                              numbered(cuda::kPerThreadStream),
                              numbered(cuda::kNoSync)};
    const Stream stream = draw.of(streams);
    SCOPED_TRACE(type.dtype.name() + " " + testing::PrintToString(shape) + " from " +
                 testing::PrintToString(source.strides) + "+" +
                 std::to_string(source.misalignment) + " to " +
                 testing::PrintToString(target.strides) + "+" +
                 std::to_string(target.misalignment) + ", stream " +
                 std::to_string(reinterpret_cast<intptr_t>(stream.handle)));
    constexpr Side kSides[] = {Side::on_device, Side::device, Side::device, Side::host, Side::host};
    const Side side = draw.of(kSides);
    const Way& way = draw.of(ways_to(side));
    constexpr const char* kNames[] = {"to host: ", "to device: ", "on the device: "};
    SCOPED_TRACE(std::string(kNames[static_cast<size_t>(side)]) + way.name);
    check_way(backend(), way, source, target, stream);
  }
};

TEST_P(RandomLayouts, ArriveExactly) {
  Draw draw(GetParam());
  for (int i = 0; i < kCases && !HasFailure(); ++i) {
    SCOPED_TRACE("case " + std::to_string(i) + " of seed " + std::to_string(GetParam()));
    check_one(draw);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomLayouts, testing::Range<uint64_t>(0, 16));

}  // namespace
}  // namespace dlbridge::contract
