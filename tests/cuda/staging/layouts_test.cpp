// SPDX-License-Identifier: Apache-2.0
// Which calls of CUDA a layout becomes, and how many bytes cross: counted by the simulator. That
// the bytes are right, whatever the calls, is the contract suite's matter (tests/contract).
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <sstream>

#include "memory.h"
#include "runtime/guards.h"
#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

using Dims = std::vector<int64_t>;

struct Calls {
  uint64_t flat = 0;
  uint64_t rows = 0;
  uint64_t boxes = 0;
  uint64_t kernels = 0;

  friend bool operator==(const Calls&, const Calls&) = default;
};

void PrintTo(const Calls& calls, std::ostream* out) {
  *out << calls.flat << " flat, " << calls.rows << " rows, " << calls.boxes << " boxes, "
       << calls.kernels << " kernels";
}

struct Case {
  const char* name;
  Dims shape;
  Dims device;  // strides
  Dims host;    // strides; pinned memory
  Calls to_host;
  Calls to_device;
};

void PrintTo(const Case& each, std::ostream* out) { *out << each.name; }

constexpr Calls kPacked{.flat = 1, .kernels = 1};

const Case kCases[] = {
    {"Scalar", {}, {}, {}, {.flat = 1}, {.flat = 1}},
    {"Compact", {30, 40}, {40, 1}, {40, 1}, {.flat = 1}, {.flat = 1}},
    {"PermutedAlike", {5, 6, 7}, {1, 35, 5}, {1, 35, 5}, {.flat = 1}, {.flat = 1}},
    {"BackwardsAlike", {30, 40}, {-40, -1}, {-40, -1}, {.flat = 1}, {.flat = 1}},
    {"ExtentsOfOne", {1, 9, 1}, {-5, 1, 0}, {7, 1, 99}, {.flat = 1}, {.flat = 1}},
    {"WideRows", {6, 1024}, {1500, 1}, {1024, 1}, {.rows = 1}, {.rows = 1}},
    {"IntoWideRows", {6, 1024}, {1024, 1}, {1500, 1}, {.rows = 1}, {.rows = 1}},
    {"WideRowsOfBoth", {6, 1024}, {1100, 1}, {1500, 1}, {.rows = 1}, {.rows = 1}},
    {"Boxes", {3, 5, 1024}, {20000, 2000, 1}, {5120, 1024, 1}, {.boxes = 1}, {.boxes = 1}},
    {"NarrowRows", {6, 1023}, {1500, 1}, {1023, 1}, kPacked, kPacked},
    {"EverySecond", {1000}, {2}, {1}, kPacked, kPacked},
    {"Transposed", {64, 48}, {1, 64}, {48, 1}, kPacked, kPacked},
    {"Backwards", {1000}, {-1}, {1}, kPacked, kPacked},
    // Scattered on the host's side: packed into one block there, and copied by the host.
    {"HostEverySecond", {1000}, {1}, {2}, {.flat = 1}, {.flat = 1}},
    {"EverySecondOfBoth", {1000}, {2}, {2}, kPacked, kPacked},
};

class StagingLayouts : public StagingTest {
 protected:
  Calls counted() {
    return {sim().calls("memcpy_async"), sim().calls("memcpy_2d_async"),
            sim().calls("memcpy_3d_async"), sim().calls("launch")};
  }
  Calls during(const std::function<void()>& action) {
    const Calls before = counted();
    action();
    const Calls after = counted();
    return {after.flat - before.flat, after.rows - before.rows, after.boxes - before.boxes,
            after.kernels - before.kernels};
  }

  // Bytes of the copies that crossed between pinned host memory and the device in `action`.
  int64_t bytes_crossing(const std::function<void()>& action) {
    const size_t before = sim().trace().size();
    action();
    std::istringstream lines(sim().trace().substr(before));
    int64_t sum = 0;
    for (std::string line; std::getline(lines, line);) {
      uintptr_t from = 0;
      uintptr_t to = 0;
      long long bytes = 0;
      if (std::sscanf(line.c_str(), "#%*d memcpy%*s 0x%zx to 0x%zx, %lld bytes", &from, &to,
                      &bytes) == 3 &&
          is_pinned(from) != is_pinned(to)) {
        sum += bytes;
      }
    }
    return sum;
  }

  bool is_pinned(uintptr_t address) {
    cuda::PointerAttributes found;
    in_context(1,
               [&] { found = cuda::attributes_of(sim().api(), reinterpret_cast<void*>(address)); });
    return found.kind == cuda::MemoryKind::pinned;
  }

  // Everything is made once, so that later calls are those of copies alone.
  void warm_up() {
    TestTensor& there = device(Layout({10, 10}, {1, 10}));
    const Loan result = cuda::stage_to_host(there.view(), on(warm_stream()), {.row_major = true});
  }
  CUstream warm_stream() {
    if (stream_ == nullptr) stream_ = stream();
    return stream_;
  }

 private:
  CUstream stream_ = nullptr;
};

class StagingCalls : public StagingLayouts, public testing::WithParamInterface<Case> {};

TEST_P(StagingCalls, ToPinnedHostFollowLayout) {
  const Case& each = GetParam();
  TestTensor& there = device(Layout(each.shape, each.device));
  TestTensor& here = foreign_pinned(Layout(each.shape, each.host), 2);
  warm_up();
  const Calls calls = during([&] { cuda::stage(there.view(), here.view(), on(warm_stream())); });
  EXPECT_EQ(calls, each.to_host);
  EXPECT_EQ(elements(here), elements_with(there, 1));
}

TEST_P(StagingCalls, FromPinnedHostFollowLayout) {
  const Case& each = GetParam();
  TestTensor& there = device(Layout(each.shape, each.device), 2);
  TestTensor& here = foreign_pinned(Layout(each.shape, each.host));
  warm_up();
  const Calls calls = during([&] { cuda::stage(here.view(), there.view(), on(warm_stream())); });
  EXPECT_EQ(calls, each.to_device);
  sim().synchronize(warm_stream());
  EXPECT_EQ(elements(there), elements_with(here, 1));
}

INSTANTIATE_TEST_SUITE_P(Table, StagingCalls, testing::ValuesIn(kCases),
                         [](const auto& given) { return std::string(given.param.name); });

TEST_F(StagingLayouts, DenseTensorsUseOneCopy) {
  warm_up();
  const uint64_t allocations = sim().calls("malloc_async");
  for (const Dims& shape : {Dims{5, 6, 7}, Dims{3, 4, 2, 5}}) {
    Dims order(shape.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    do {
      SCOPED_TRACE(testing::PrintToString(order));
      Dims strides(shape.size());
      int64_t stride = 1;
      for (size_t i = order.size(); i-- > 0;) {
        strides[static_cast<size_t>(order[i])] = stride;
        stride *= shape[static_cast<size_t>(order[i])];
      }
      TestTensor& there = device(Layout(shape, strides));
      Loan result;
      EXPECT_EQ(during([&] { result = cuda::stage_to_host(there.view(), on(warm_stream())); }),
                Calls{.flat = 1});
      EXPECT_EQ(elements(result), elements_with(there, 1));
    } while (std::next_permutation(order.begin(), order.end()));
  }
  EXPECT_EQ(sim().calls("malloc_async"), allocations);
}

TEST_F(StagingLayouts, BroadcastElementsCrossOnce) {
  struct Broadcast {
    Dims shape;
    Dims strides;
    int64_t elements;
  };
  warm_up();
  for (const Broadcast& each :
       {Broadcast{{50, 60}, {0, 1}, 60}, Broadcast{{50, 60}, {1, 0}, 50},
        Broadcast{{50, 60}, {0, 0}, 1}, Broadcast{{7, 8, 9}, {0, 2, 0}, 8},
        Broadcast{{2, 300}, {0, -1}, 300}, Broadcast{{7, 1, 9}, {9, 0, 1}, 63}}) {
    SCOPED_TRACE(testing::PrintToString(each.strides));
    const int64_t once = each.elements * 4;
    TestTensor& there = device(Layout(each.shape, each.strides));
    Loan result;
    const auto fresh = [&] { result = cuda::stage_to_host(there.view(), on(warm_stream())); };
    EXPECT_EQ(bytes_crossing(fresh), once);
    EXPECT_EQ(elements(result), elements_with(there, 1));

    TestTensor& target = device(Layout(each.shape), 2);
    TestTensor& here = host(Layout(each.shape, each.strides));
    const auto send = [&] {
      cuda::stage(here.view(), target.view(), on(warm_stream()));
      sim().synchronize(warm_stream());
    };
    EXPECT_EQ(bytes_crossing(send), once);
    EXPECT_EQ(elements(target), elements_with(here, 1));
  }
}

TEST_F(StagingLayouts, EmptyTensorsCallNothing) {
  warm_up();
  for (const Dims& strides : {Dims{0, 1}, Dims{-5, INT64_MAX}, Dims{INT64_MIN, 3}}) {
    const Shaped nothing({0, 3}, strides, kFloat32, nullptr);
    TensorView there = nothing.view();
    there.device = Device(DeviceType::cuda, 1);
    const TensorView batch[] = {there, there};
    TensorView here = nothing.view();
    const TensorView here_batch[] = {here, here};
    const Stream stream = on(warm_stream());
    const uint64_t before = sim().total_calls();
    static_cast<void>(cuda::stage_to_host(there, stream));
    cuda::stage(there, here, stream);
    static_cast<void>(cuda::stage_to_host(batch, stream));
    static_cast<void>(cuda::stage_to_host_async(loan_of(there), stream));
    static_cast<void>(cuda::stage_async(loan_of(there), loan_of(here), stream));
    cuda::stage(here, there, stream);
    cuda::stage(here_batch, batch, stream);
    static_cast<void>(cuda::stage_async(loan_of(here), loan_of(there), stream));
    EXPECT_EQ(sim().total_calls(), before);
  }
}

TEST_F(StagingLayouts, StridedUsesLittleDeviceMemory) {
  warm_up();
  const Layout strided({10, 1 << 20}, {1 << 21, 2});
  TestTensor& there = device(strided);
  TestTensor& here = host(Layout({10, 1 << 20}), 2);
  sim().reset_peaks();
  const Calls down = during([&] { cuda::stage(there.view(), here.view(), on(warm_stream())); });
  EXPECT_EQ(elements(here), elements_with(there, 1));
  fill(here, 3);
  const Calls up = during([&] { cuda::stage(here.view(), there.view(), on(warm_stream())); });
  sim().synchronize(warm_stream());
  EXPECT_EQ(elements(there), elements_with(here, 3));
  EXPECT_LE(sim().peak_async_bytes(), size_t{64} << 20);
  // 40 MiB in slots of 4 MiB.
  EXPECT_LE(down.kernels, 12u);
  EXPECT_LE(up.kernels, 12u);
}

// What the first tensor of a batch needs does not hold for the next ones.
TEST_F(StagingLayouts, BatchPiecesSuitLargestTensor) {
  warm_up();
  TestTensor& small = device(Layout({2}, {3}, kInt8));
  TestTensor& large = device(Layout({1000, 1000}, {1, 1000}, kFloat64));
  const TensorView sources[] = {small.view(), large.view()};
  std::vector<Loan> results;
  const Calls calls = during(
      [&] { results = cuda::stage_to_host(sources, on(warm_stream()), {.row_major = true}); });
  EXPECT_EQ(elements(results[1]), elements_with(large, 1));
  EXPECT_LE(calls.kernels, 4u);

  TestTensor& small_target = device(Layout({2}, {3}, kInt8), 2);
  TestTensor& large_target = device(Layout({1000, 1000}, {1, 1000}, kFloat64), 2);
  const TensorView targets[] = {small_target.view(), large_target.view()};
  const TensorView back[] = {results[0].view(), results[1].view()};
  const Calls up = during([&] { cuda::stage(back, targets, on(warm_stream())); });
  sim().synchronize(warm_stream());
  EXPECT_EQ(elements(large_target), elements_with(large, 1));
  EXPECT_LE(up.kernels, 4u);
}

// Runs of small tensors between others, more than one kernel takes, sizes without a common unit.
TEST_F(StagingLayouts, SmallOfBatchAreGathered) {
  warm_up();
  std::vector<TestTensor*> tensors;
  for (int64_t i = 0; i < 400; ++i) {
    if (i == 100)
      tensors.push_back(&device({{100'000}}, 7));
    else if (i == 200)
      tensors.push_back(&device(Layout({50}, std::vector<int64_t>{3}), 8));
    else if (i == 300)
      tensors.push_back(&device(Layout({0})));
    else
      tensors.push_back(&device(Layout({i % 97 + 1}, kInt8), static_cast<uint32_t>(i)));
  }
  std::vector<TensorView> sources;
  for (const TestTensor* tensor : tensors) sources.push_back(tensor->view());
  const uint64_t gathers = sim().calls("gather");
  std::vector<Loan> results;
  const Calls calls = during([&] { results = cuda::stage_to_host(sources, on(warm_stream())); });
  for (size_t i = 0; i < tensors.size(); ++i)
    EXPECT_EQ(elements(results[i]),
              elements_with(*tensors[i], i == 100   ? 7
                                         : i == 200 ? 8
                                                    : static_cast<uint32_t>(i)))
        << i;
  EXPECT_EQ(sim().calls("gather") - gathers, 4u);
  EXPECT_EQ(calls.flat, 3u + 1 + 1);  // the runs, the large one, the one with steps
}

// Nothing says that an element is small.
TEST_F(StagingLayouts, HugeElementsPassWhole) {
  const DType huge(TypeCode::complex, 128, 65535);
  for (const Dims& strides : {Dims{1}, Dims{2}}) {
    TestTensor& there = device(Layout({3}, strides, huge));
    TestTensor& here = host(Layout({3}, {2}, huge), 2);
    cuda::stage(there.view(), here.view(), on(warm_stream()));
    EXPECT_EQ(elements(here), elements_with(there, 1));
    fill(here, 3);
    cuda::stage(here.view(), there.view(), on(warm_stream()));
    sim().synchronize(warm_stream());
    EXPECT_EQ(elements(there), elements_with(here, 3));
  }
}

}  // namespace
}  // namespace dlbridge::test
