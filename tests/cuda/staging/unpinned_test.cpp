// SPDX-License-Identifier: Apache-2.0
// Where the pool's limit leaves not even room for a ring: the driver copies from and to ordinary
// memory, in each of the ways in which it may. Every path without the pool: order_test.cpp.
#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

using cuda_sim::Pageable;

class Unpinned : public StagingTest, public testing::WithParamInterface<Pageable> {
 protected:
  void start_with(Schedule schedule) {
    start({.schedule = schedule, .pageable = GetParam()});
    cuda::set_pinned_limit(0);
  }
};

TEST_P(Unpinned, SourceIsHeldUntilDone) {
  const Layout every_second({200'000}, std::vector<int64_t>{2});
  for (const bool pinned : {true, false}) {
    for (const Layout& layout : {Layout({9, 7}), Layout({200'000}), every_second}) {
      SCOPED_TRACE(layout.span);
      start_with(Schedule::eager);
      TestTensor& target = device(layout, 9);
      const Layout dense(layout.shape);
      TestTensor& source = pinned ? foreign_pinned(dense, 2) : host(dense, 2);
      const size_t pinned_by_test = sim().registered_bytes();
      sim().hold();
      const cuda::Future future =
          cuda::stage_async(source.acquire(), target.acquire(), on(stream()), {.borrow = !pinned});
      EXPECT_FALSE(future.wait(0.05));
      EXPECT_EQ(source.releases() + target.releases(), 0) << "the device has yet to read it";
      sim().go();
      EXPECT_TRUE(future.wait(10));
      EXPECT_EQ(source.releases(), 1);
      EXPECT_TRUE(elements(target) == elements_with(source, 2));
      EXPECT_EQ(sim().peak_registered_bytes(), pinned_by_test) << "beyond the limit";
    }
  }
}

TEST_P(Unpinned, BroadcastSourceCrossesOnce) {
  start_with(Schedule::lazy);
  TestTensor& source = host({{50, 40, 300}, {300, 0, 1}}, 3);
  TestTensor& target = device({{50, 40, 300}}, 9);
  const CUstream caller = stream();
  cuda::stage(source.view(), target.view(), on(caller));
  fill(source, 4);
  sim().synchronize(caller);
  EXPECT_TRUE(elements(target) == elements_with(source, 3));
  const cuda::Future future =
      cuda::stage_async(source.acquire(), target.acquire(), on(caller), {.borrow = true});
  EXPECT_TRUE(future.wait(10));
  EXPECT_TRUE(elements(target) == elements_with(source, 4));
  EXPECT_EQ(sim().peak_registered_bytes(), 0u);
}

INSTANTIATE_TEST_SUITE_P(All, Unpinned,
                         testing::Values(Pageable::synchronous, Pageable::staged,
                                         Pageable::deferred));

// ---- A limit that is nearly nothing

class UnpinnedLimit : public StagingTest, public testing::WithParamInterface<size_t> {};

TEST_P(UnpinnedLimit, IsKeptWithoutBlocking) {
  start({.schedule = Schedule::lazy});
  cuda::set_pinned_limit(GetParam());
  TestTensor& x = device({{400'000}});
  TestTensor& out = host(Layout({400'000}, std::vector<int64_t>{2}));
  const CUstream caller = stream();
  produce(caller, x, 2);
  cuda::stage(x.view(), out.view(), on(caller));
  EXPECT_TRUE(elements(out) == elements_with(x, 2));
  TestTensor& target = device({{400'000}}, 9);
  cuda::stage(out.view(), target.view(), on(caller));
  sim().synchronize(caller);
  EXPECT_TRUE(elements(target) == elements(out));
  EXPECT_LE(sim().peak_registered_bytes(), GetParam());
  EXPECT_EQ(cuda::pinned_stats().owned, 0u) << "of a ring that was too small nothing is kept";
}

INSTANTIATE_TEST_SUITE_P(All, UnpinnedLimit,
                         testing::Values(size_t{0}, size_t{4096}, size_t{256} << 10,
                                         size_t{511} << 10, size_t{512} << 10, size_t{2} << 20,
                                         size_t{3} << 20));

}  // namespace
}  // namespace dlbridge::test
