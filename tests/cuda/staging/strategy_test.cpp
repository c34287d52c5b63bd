// SPDX-License-Identifier: Apache-2.0
// The steps of a staging in words, next to what the staging then does.
#include <gmock/gmock.h>

#include "dlbridge/cuda/device_memory.h"
#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

using testing::ElementsAre;
using Steps = std::vector<std::string>;

constexpr size_t kUnlimited = SIZE_MAX;
constexpr size_t kRoomForARing = size_t{2} << 20;

struct Case {
  const char* name;
  Layout layout;
  Steps to_host;
  Steps from_pageable;
  Steps from_pinned;
  const char* call;  // the one that brings it to the host
  size_t limit = kUnlimited;
};

std::ostream& operator<<(std::ostream& out, const Case& each) { return out << each.name; }

const char* const kOne = "one copy";
const char* const kPooled = "pooled pinned memory";
const char* const kBlock = "from pageable memory through a pinned block";
const char* const kRing = "from pageable memory through a ring";
const char* const kPinned = "from pinned memory";

std::vector<Case> cases() {
  const Layout small({10, 10});
  const Layout large({900'000});
  const Layout rows({80, 1024}, {1500, 1});
  const Layout boxes({3, 30, 1024}, {70'000, 2000, 1});
  const Layout second({100'000}, std::vector<int64_t>{2});
  const Layout broadcast({400, 300}, {0, 1});
  const Layout transposed({300, 400}, {1, 300});
  const Layout empty({0, 3});
  return {
      {"Small", small, {kOne, kPooled}, {kOne, kBlock}, {kOne, kPinned}, "memcpy_async"},
      {"Large", large, {kOne, kPooled}, {kOne, kRing}, {kOne, kPinned}, "memcpy_async"},
      {"Transposed", transposed, {kOne, kPooled}, {kOne, kRing}, {kOne, kPinned}, "memcpy_async"},
      {"Rows", rows, {"2D copy", kPooled}, {kOne, kRing}, {"2D copy", kPinned}, "memcpy_2d_async"},
      {"Boxes",
       boxes,
       {"3D copy", kPooled},
       {kOne, kRing},
       {"3D copy", kPinned},
       "memcpy_3d_async"},
      {"EverySecond",
       second,
       {"pack kernel", kPooled},
       {kOne, kRing},
       {kOne, "from pinned memory through a ring"},
       "launch"},
      {"Broadcast",
       broadcast,
       {"repeated elements once", kOne, kPooled},
       {"repeated elements once", kOne, kBlock},
       {"repeated elements once", kOne, kPinned},
       "memcpy_async"},
      {"Empty", empty, {"no copy"}, {"no copy"}, {"no copy"}, nullptr},
      {"OverTheLimit",
       large,
       {kOne, "pageable memory through a ring"},
       {kOne, kRing},
       {kOne, kPinned},
       "memcpy_async",
       kRoomForARing},
      {"WithoutRoomForARing",
       large,
       {kOne, "pageable memory"},
       {kOne, "from pageable memory"},
       {kOne, kPinned},
       "memcpy_async",
       0},
      {"SmallWithoutRoom",
       small,
       {kOne, "pageable memory"},
       {kOne, "from pageable memory"},
       {kOne, kPinned},
       "memcpy_async",
       0},
  };
}

constexpr DLDevice kHost{kDLCPU, 0};
constexpr DLDevice kDevice{kDLCUDA, 1};

class StagingStrategy : public StagingTest, public testing::WithParamInterface<Case> {
 protected:
  void SetUp() override {
    start();
    static_cast<void>(cuda::pinned_empty(host({{1}}).view()));
    if (GetParam().limit != kUnlimited) cuda::set_pinned_limit(GetParam().limit);
  }

  static uint64_t blocks_taken() {
    const cuda::PinnedStats stats = cuda::pinned_stats();
    return stats.hits + stats.misses - stats.refused;
  }
};

TEST_P(StagingStrategy, ToHostMatchesCalls) {
  TestTensor& x = device(GetParam().layout);
  const uint64_t calls = sim().total_calls();
  const size_t registered = sim().registered_bytes();
  const Steps told = cuda::staging_strategy(x.view(), kHost);
  EXPECT_EQ(told, GetParam().to_host);
  EXPECT_EQ(sim().total_calls(), calls) << "nothing is asked";
  EXPECT_EQ(sim().registered_bytes(), registered) << "nothing is made";
  if (GetParam().call == nullptr) return;
  const uint64_t before = sim().calls(GetParam().call);
  const Loan result = cuda::stage_to_host(x.view(), on(stream()));
  EXPECT_GT(sim().calls(GetParam().call), before);
  EXPECT_EQ(cuda::is_page_locked(result.view()), told.back() == kPooled);
  EXPECT_EQ(blocks_taken() > 1, told.back() != "pageable memory");
}

TEST_P(StagingStrategy, ToDeviceMatchesCalls) {
  for (const bool pinned : {false, true}) {
    SCOPED_TRACE(pinned);
    if (pinned && GetParam().layout.empty) continue;
    TestTensor& x = pinned ? foreign_pinned(GetParam().layout, 3) : host(GetParam().layout, 3);
    const Steps told = cuda::staging_strategy(x.view(), kDevice);
    EXPECT_EQ(told, pinned ? GetParam().from_pinned : GetParam().from_pageable);
    if (GetParam().layout.empty) continue;
    const uint64_t blocks = blocks_taken();
    const CUstream consumer = stream();
    TestTensor& target = device(Layout(GetParam().layout.shape));
    cuda::stage(x.view(), target.view(), on(consumer));
    sim().synchronize(consumer);
    EXPECT_EQ(elements(target), elements_with(x, 3));
    const uint64_t used = blocks_taken() - blocks;
    if (told.back().ends_with("through a ring")) {
      EXPECT_GE(used, 2u);
    } else {
      EXPECT_EQ(used, told.back().ends_with("through a pinned block") ? 1u : 0u);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, StagingStrategy, testing::ValuesIn(cases()),
                         testing::PrintToStringParamName());

class StagingStepsAnywhere : public StagingTest {};

TEST_F(StagingStepsAnywhere, MakeNoContext) {
  start({.active = {}});
  TestTensor& x = host({{100}});
  EXPECT_THAT(cuda::staging_strategy(x.view(), kDevice), ElementsAre("one copy", kBlock));
  EXPECT_FALSE(cuda::is_page_locked(x.view()));
  expect_error(ErrorCode::invalid_device, [&] { cuda::device_of_address(x.memory()); });
  EXPECT_FALSE(sim().context_active(0) || sim().context_active(1));
}

TEST_F(StagingStepsAnywhere, WithoutADriverAreRefused) {
  start({.driver = cuda_sim::Driver::absent});
  expect_error(ErrorCode::no_driver,
               [] { static_cast<void>(cuda::staging_strategy(Shaped({3}).view(), kDevice)); });
}

}  // namespace
}  // namespace dlbridge::test
