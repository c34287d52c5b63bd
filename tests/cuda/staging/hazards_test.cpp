// SPDX-License-Identifier: Apache-2.0
// The hazards of asynchronous copies. Elsewhere: captures (capture_test.cpp, streams_test.cpp), the
// wrong current device and lost errors (contexts_test.cpp), dead devices (failure_test.cpp),
// processes that fork, end or have no driver (process_test.cpp).
#include "runtime/cuda_api.h"
#include "staging_paths.h"

namespace dlbridge::test {
namespace {

// ---- Pageable memory: an "asynchronous" copy of it may be over on return, or not begun

class PageableMemory : public StagingPathTest, public testing::WithParamInterface<StagingPath> {};

TEST_P(PageableMemory, NeverCopiedAsynchronously) {
  for (const cuda_sim::Pageable way : {cuda_sim::Pageable::synchronous, cuda_sim::Pageable::staged,
                                       cuda_sim::Pageable::deferred}) {
    start({.schedule = Schedule::lazy, .pageable = way});
    if (GetParam().side == HostSide::fresh) {
      static_cast<void>(cuda::stage_to_host(device({{1}}).view(), on(stream())));
      cuda::set_pinned_limit(size_t{2} << 20);
      static_cast<void>(cuda::pinned_empty(host({{300'000}}).view()));
    }
    const std::optional<Error> error = walk(GetParam());
    EXPECT_FALSE(error) << error->what();
    EXPECT_TRUE(cuda::drain(10));
  }
}

INSTANTIATE_TEST_SUITE_P(All, PageableMemory, testing::ValuesIn(staging_paths()),
                         testing::PrintToStringParamName());

class StagingHazards : public StagingTest {
 protected:
  static constexpr int64_t kSmall = 1000;
  static constexpr int64_t kLarge = 100'000;
  static constexpr int64_t kHuge = 2'400'000;  // above 8 MiB: a segment of its own

  // Room for one huge block and little else.
  void allow_one_huge_block() {
    static_cast<void>(cuda::pinned_stats());
    cuda::set_pinned_limit(size_t{12} << 20);
  }

  // A kernel on `users` reads a result that is dropped: its memory is not used before that is over.
  void expect_reuse_after(CUstream users, const std::function<void(void*)>& record) {
    TestTensor& x = device({{kHuge}}, 2);
    TestTensor& y = device({{kHuge}}, 3);
    Loan result = cuda::stage_to_host(x.view(), on(stream()));
    void* const memory = result.view().data;
    sim().hold_stream(users);
    sim().enqueue_kernel(
        users, {{memory, x.span()}}, {{y.memory(), y.span()}},
        [](const std::vector<void*>& at) { std::memcpy(at[1], at[0], size_t{kHuge} * 4); });
    record(memory);
    result.reset();
    TestTensor& next = device({{kHuge}}, 4);
    const Loan other = cuda::stage_to_host(next.view(), on(stream()));
    EXPECT_NE(other.view().data, memory);
    EXPECT_TRUE(elements(other) == elements_with(next, 4));
    sim().go_stream(users);
    sim().synchronize(users);
    EXPECT_TRUE(elements(y) == elements_with(x, 2));
    wait_for_fences();
    const Loan again = cuda::stage_to_host(next.view(), on(stream()));
    EXPECT_EQ(again.view().data, memory) << "now it is free";
  }
};

// ---- A pinned block is used again before its copy has ended

TEST_F(StagingHazards, SlotWaitsForItsCopy) {
  for (const auto& [size, copies] : {std::pair{kSmall, 40}, {kLarge, 1}}) {  // a block, a ring
    TestTensor& a = device({{size}}, 2);
    TestTensor& b = device({{size}}, 3);
    TestTensor& source = host({{size}}, 4);
    const CUstream consumer = stream();
    sim().hold_stream(consumer);
    cuda::stage(source.view(), a.view(), on(consumer));
    fill(source, 5);
    for (int i = 0; i < copies; ++i) cuda::stage(source.view(), b.view(), on(consumer));
    EXPECT_GT(cuda::pinned_stats().in_flight, 0u);
    sim().go_stream(consumer);
    sim().synchronize(consumer);
    EXPECT_EQ(elements(a), elements_with(source, 4));
    EXPECT_EQ(elements(b), elements_with(source, 5));
  }
}

// A slow consumer does not keep others from memory.
TEST_F(StagingHazards, SlotInFlightBlocksNoOther) {
  TestTensor& a = device({{kSmall}}, 2);
  TestTensor& source = host({{kSmall}}, 4);
  const CUstream slow = stream();
  sim().hold_stream(slow);
  cuda::stage(source.view(), a.view(), on(slow));
  const size_t registered = cuda::pinned_stats().registered;
  const CUstream quick = stream();
  TestTensor& b = device({{kSmall}}, 3);
  for (int i = 0; i < 2000; ++i) {
    cuda::stage(source.view(), b.view(), on(quick));
    sim().synchronize(quick);
  }
  EXPECT_EQ(cuda::pinned_stats().registered, registered) << "blocks are used again";
}

// ---- A source whose allocator hands the memory on in its stream's order

TEST_F(StagingHazards, SourceIsReusableInStreamOrder) {
  for (const int64_t size : {kSmall, kLarge}) {
    for (const bool held : {false, true}) {
      TestTensor& x = device({{size}});
      const CUstream producer = stream();
      // The allocator's next user writes there, in the order of the stream.
      x.on_release = [&] { produce(producer, x, 9); };
      if (held) sim().hold();
      const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(producer));
      EXPECT_EQ(x.releases(), held ? 0 : x.releases());
      produce(producer, x, 8);  // as if the last other reference had gone at once
      if (held) sim().go();
      EXPECT_EQ(elements(future.result()), elements_with(x, 1));
    }
  }
}

TEST_F(StagingHazards, SynchronousCopyLeavesNothing) {
  start({.schedule = Schedule::lazy});
  for (const int64_t size : {kSmall, kLarge}) {
    TestTensor& x = device({{size}});
    const Loan result = cuda::stage_to_host(x.view(), on(stream()));
    x.freed = true;
    sim().device_free(x.memory());
    EXPECT_EQ(elements(result), elements_with(x, 1));
  }
}

// ---- Results from which the caller copies asynchronously

// What torch does with tensor.cuda(non_blocking=True) over a result, on an ordinary stream.
TEST_F(StagingHazards, DroppedResultWaitsForLegacyOrder) {
  allow_one_huge_block();
  for (const bool legacy : {true, false}) {
    const CUstream users = legacy ? CU_STREAM_LEGACY : sim().make_stream(CU_STREAM_DEFAULT, 1);
    expect_reuse_after(users, [&](void* memory) {
      EXPECT_TRUE(cuda::record_stream(memory, numbered(1))) << "it is pinned";
    });
  }
}

// The same on a device that the module was never asked to use.
TEST_F(StagingHazards, DroppedResultWaitsForOtherDevices) {
  start({.active = {0, 1}});
  allow_one_huge_block();
  TestTensor& x = device({{kHuge}}, 2);
  const auto on_other = [&](auto&& body) { in_context(0, body); };
  Loan result = cuda::stage_to_host(x.view(), on(stream()));
  const void* const memory = result.view().data;
  on_other([&] {
    sim().hold_stream(CU_STREAM_LEGACY);
    sim().enqueue_kernel(CU_STREAM_LEGACY, {{memory, x.span()}}, {});
  });
  result.reset();
  Loan other = cuda::stage_to_host(x.view(), on(stream()));
  EXPECT_NE(other.view().data, memory);
  on_other([&] {
    sim().go_stream(CU_STREAM_LEGACY);
    sim().synchronize(CU_STREAM_LEGACY);
  });
  wait_for_fences();
  other = cuda::stage_to_host(x.view(), on(stream()));
  EXPECT_EQ(other.view().data, memory) << "now it is free";
}

// One blocking stream waits for what the host does with a result of another one. A fence between
// the two would make the second wait for the first.
TEST_F(StagingHazards, FenceJoinsNoBlockingStreams) {
  TestTensor& x = device({{kLarge}}, 2);
  TestTensor& y = device({{kLarge}}, 3);
  const CUstream waits = stream(1, CU_STREAM_DEFAULT);
  const CUstream works = stream(1, CU_STREAM_DEFAULT);
  sim().hold_stream(waits);
  produce(waits, y, 4);
  for (int i = 0; i < 5; ++i) {
    Loan dropped = cuda::stage_to_host(x.view(), on(stream()));
    dropped.reset();
    static_cast<void>(cuda::pinned_stats());
    produce(works, x, 5);
    const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(works));
    ASSERT_TRUE(future.wait(10)) << "it waits for the other stream";
  }
  sim().go_stream(waits);
}

// As long as the legacy stream is busy one fence is in flight, however much is dropped.
TEST_F(StagingHazards, OneFenceIsInFlight) {
  TestTensor& x = device({{kHuge}}, 2);
  TestTensor& busy = device({{kSmall}}, 3);
  const CUstream users = sim().make_stream(CU_STREAM_DEFAULT, 1);
  sim().hold_stream(users);
  produce(users, busy, 4);
  TestTensor& small = device({{kSmall}}, 5);
  const CUstream caller = stream();
  const auto records = [&] { return sim().calls("event_record"); };
  std::vector<Loan> results;
  for (int i = 0; i < 20; ++i) results.push_back(cuda::stage_to_host(x.view(), on(caller)));
  const uint64_t before = records();
  while (!results.empty()) {
    results.pop_back();
    static_cast<void>(cuda::stage_to_host(small.view(), on(caller)));
  }
  EXPECT_LE(records() - before, 21u) << "one for each copy, and a fence";
  sim().go_stream(users);
  sim().synchronize(users);
}

// As when another thread's capture forbids it, between the question and the event.
TEST_F(StagingHazards, RefusedFenceIsTriedAgain) {
  TestTensor& x = device({{kHuge}}, 2);
  Loan result = cuda::stage_to_host(x.view(), on(stream()));
  wait_for_fences();
  result.reset();
  sim().fail({"event_record", 1, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT});
  EXPECT_GT(cuda::pinned_stats().quarantined, 0u);
  wait_for_fences();
  const cuda::PinnedStats stats = cuda::pinned_stats();
  EXPECT_EQ(stats.free, stats.registered);
}

// Another library resets a device on which nothing is staged.
TEST_F(StagingHazards, FenceLeavesOutResetDevice) {
  start({.active = {0, 1}});
  expect_losses();
  TestTensor& x = device({{kHuge}}, 2);
  cuda::stage_to_host(x.view(), on(stream())).reset();
  wait_for_fences();
  sim().reset_device(0);
  cuda::stage_to_host(x.view(), on(stream())).reset();
  wait_for_fences();  // notices it: the device may have used the result
  const size_t leaked = cuda::pinned_stats().leaked;
  for (int i = 0; i < 3; ++i) cuda::stage_to_host(x.view(), on(stream())).reset();
  wait_for_fences();
  EXPECT_EQ(cuda::pinned_stats().leaked, leaked);
  cuda::inject_cuda_api(&sim().api());  // destroys events of the context that is gone
  sim().clear_reports();
}

TEST_F(StagingHazards, DroppedResultWaitsForRecorded) {
  allow_one_huge_block();
  const CUstream users = stream();  // non-blocking
  expect_reuse_after(users, [&](void* memory) {
    EXPECT_TRUE(cuda::record_stream(static_cast<std::byte*>(memory) + 1000, on(users)));
    EXPECT_FALSE(cuda::record_stream(device({{kSmall}}).memory(), on(users)));
  });
}

// The same without record_stream: the accident that it is there for, which the simulator sees.
TEST_F(StagingHazards, UnrecordedStreamRaces) {
  allow_one_huge_block();
  TestTensor& x = device({{kHuge}}, 2);
  const CUstream users = stream();
  Loan result = cuda::stage_to_host(x.view(), on(stream()));
  const void* const memory = result.view().data;
  sim().hold_stream(users);
  sim().enqueue_kernel(users, {{memory, x.span()}}, {});
  result.reset();
  wait_for_fences();
  const Loan other = cuda::stage_to_host(x.view(), on(stream()));
  EXPECT_EQ(other.view().data, memory);
  EXPECT_GE(sim().reports_of(cuda_sim::ReportKind::race), 1u);
  sim().go_stream(users);
  sim().synchronize(users);
  sim().clear_reports();
}

// The statistics free dropped results without another staging.
TEST_F(StagingHazards, StatsFreeDroppedResults) {
  TestTensor& x = device({{kHuge}}, 2);
  cuda::stage_to_host(x.view(), on(stream())).reset();
  cuda::stage_to_host(device({{kSmall}}).view(), on(stream())).reset();
  sim().use_no_device();
  wait_for_fences();
  const cuda::PinnedStats stats = cuda::pinned_stats();
  EXPECT_EQ(stats.free, stats.registered);
  EXPECT_EQ(cuda::trim_pinned(), stats.registered);
}

// A large result's fence is taken by whatever is staged next, not by the one who needs its memory.
TEST_F(StagingHazards, FencePrecedesLaterWork) {
  allow_one_huge_block();
  TestTensor& x = device({{kHuge}}, 2);
  TestTensor& small = device({{kSmall}}, 3);
  TestTensor& busy = device({{kSmall}}, 4);
  for (const bool async : {false, true}) {
    Loan result = cuda::stage_to_host(x.view(), on(stream()));
    const void* const memory = result.view().data;
    const auto stage_small = [&] {
      if (async)
        cuda::stage_to_host_async(small.acquire(), on(stream())).wait();
      else
        static_cast<void>(cuda::stage_to_host(small.view(), on(stream())));
    };
    stage_small();
    result.reset();
    stage_small();
    sim().synchronize(CU_STREAM_LEGACY);
    sim().hold_stream(CU_STREAM_LEGACY);
    produce(CU_STREAM_LEGACY, busy, 5);
    const Loan next = cuda::stage_to_host(x.view(), on(stream()));
    EXPECT_EQ(next.view().data, memory);
    sim().go_stream(CU_STREAM_LEGACY);
    sim().synchronize(CU_STREAM_LEGACY);
  }
}

// ---- Functions that CUDA calls on the host, of the module's callers and its own

// They may drop results and futures, which calls nothing, while other threads stage.
TEST_F(StagingHazards, HostFunctionsDropResults) {
  TestTensor& x = device({{kLarge}});
  TestTensor& small = device({{kSmall}}, 2);
  const CUstream caller = stream();
  std::vector<Loan> results;
  for (const TestTensor* each : {&x, &small, &x, &small})
    results.push_back(cuda::stage_to_host(each->view(), on(caller)));
  cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(caller));
  EXPECT_TRUE(future.wait(10) && cuda::drain(10));
  sim().enqueue_host_function(caller, [&] {
    EXPECT_TRUE(sim().wait_until_blocked(1));
    EXPECT_TRUE(future.done());
    future = {};
    results.clear();
  });
  EXPECT_EQ(elements(cuda::stage_to_host(small.view(), on(stream()))), elements_with(small, 2));
  sim().synchronize(caller);
  EXPECT_TRUE(results.empty());
}

// The module has none: they are not run after an error.

template <typename Api>
constexpr bool kCanLaunchHostFunctions =
    requires(Api api) { api.launch_host_func; } || requires(Api api) { api.stream_add_callback; };
static_assert(!kCanLaunchHostFunctions<cuda::CudaApi>);

}  // namespace
}  // namespace dlbridge::test
