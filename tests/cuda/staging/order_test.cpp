// SPDX-License-Identifier: Apache-2.0
// The order of a staging among the work of its caller's streams: what came before it on the stream
// is seen, what comes after waits, and nothing else is ordered with it.
#include <gmock/gmock.h>

#include "dlbridge/cuda/stream_order.h"
#include "staging_paths.h"

namespace dlbridge::test {
namespace {

using cuda_sim::Schedule;

// ---- Every path, under schedules that run things early and late

class OrderOfEveryWay : public StagingPathTest, public testing::WithParamInterface<StagingPath> {};

TEST_P(OrderOfEveryWay, CopiesInOrder) {
  for (const Schedule schedule : {Schedule::eager, Schedule::lazy}) {
    start({.schedule = schedule});
    const std::optional<Error> error = walk(GetParam());
    EXPECT_FALSE(error) << error->what();
    EXPECT_TRUE(cuda::drain(10));
  }
}

INSTANTIATE_TEST_SUITE_P(All, OrderOfEveryWay, testing::ValuesIn(staging_paths()),
                         testing::PrintToStringParamName());

// ---- Dependencies

class StagingOrder : public StagingTest {
 protected:
  static constexpr int64_t kSmall = 100;
  static constexpr int64_t kLarge = 40'000;  // floats: above 64 KiB

  // Uses copy streams, and tells which there are.
  std::vector<CUstream> warm_up() {
    TestTensor& x = device({{kLarge}});
    TestTensor& strided = device({{kLarge}, std::vector<int64_t>{2}});
    for (TestTensor* each : {&x, &strided}) {
      const cuda::StageOptions options{.snapshot = false};
      EXPECT_TRUE(cuda::stage_to_host_async(each->acquire(), on(stream()), options).wait(10));
    }
    return copy_stream_handles();
  }
};

TEST_F(StagingOrder, SnapshotDelaysProducer) {
  const std::vector<CUstream> copy_streams = warm_up();
  ASSERT_FALSE(copy_streams.empty());
  // Of strided elements a copy stream makes the transfers.
  for (const Layout& layout : {Layout({kLarge}), Layout({kLarge}, std::vector<int64_t>{2})}) {
    TestTensor& x = device(layout);
    const CUstream producer = stream();
    for (const CUstream copy_stream : copy_streams) sim().hold_stream(copy_stream);
    const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(producer));
    produce(producer, x, 2);
    if (layout.strides[0] == 2) {
      EXPECT_EQ(sim().read(x.memory(), x.span()), pattern(x.span(), 1));
    }
    for (const CUstream copy_stream : copy_streams) sim().go_stream(copy_stream);
    EXPECT_EQ(elements(future.result()), elements_with(x, 1));
    sim().synchronize(producer);
    EXPECT_EQ(sim().read(x.memory(), x.span()), pattern(x.span(), 2));
  }
}

TEST_F(StagingOrder, NoSnapshotKeepsProducerRunning) {
  const std::vector<CUstream> copy_streams = warm_up();
  for (const CUstream copy_stream : copy_streams) sim().hold_stream(copy_stream);
  TestTensor& x = device({{kLarge}});
  const CUstream producer = stream();
  const cuda::Future future =
      cuda::stage_to_host_async(x.acquire(), on(producer), {.snapshot = false});
  const auto read = consume(producer, x);
  EXPECT_EQ(read->size(), x.span()) << "the producer waits for the copy";
  EXPECT_FALSE(future.done());
  for (const CUstream copy_stream : copy_streams) sim().go_stream(copy_stream);
  EXPECT_EQ(elements(future.result()), elements_with(x, 1));
}

TEST_F(StagingOrder, SmallCopiesUseCallersStream) {
  TestTensor& x = device({{kSmall}});
  const CUstream producer = stream();
  produce(producer, x, 2);
  EXPECT_EQ(elements(cuda::stage_to_host(x.view(), on(producer))), elements_with(x, 2));
  TestTensor& out = host({{kSmall}});
  cuda::stage(x.view(), out.view(), on(producer));
  EXPECT_EQ(elements(out), elements_with(x, 2));
  TestTensor& target = device({{kSmall}}, 7);
  cuda::stage(out.view(), target.view(), on(producer));
  EXPECT_EQ(sim().used_streams(), std::vector{producer});
  EXPECT_EQ(sim().calls("stream_wait_event"), 0u);
  EXPECT_EQ(sim().calls("event_record"), 3u);  // one end each
}

TEST_F(StagingOrder, SmallCopiesArePolled) {
  start({.schedule = Schedule::lazy});
  const CUstream producer = stream();
  TestTensor& x = device({{kSmall}});
  for (uint32_t seed = 1; seed < 30; ++seed) {
    produce(producer, x, seed);
    EXPECT_EQ(elements(cuda::stage_to_host(x.view(), on(producer))), elements_with(x, seed));
  }
  EXPECT_GT(sim().calls("event_query"), 40u) << "none was asked too early";
}

TEST_F(StagingOrder, LargeCopiesUseCallersStream) {
  TestTensor& x = device({{kLarge}});
  const CUstream producer = stream();
  const Loan held = cuda::stage_to_host(x.view(), on(producer));
  const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(producer));
  EXPECT_EQ(elements(held), elements_with(x, 1));
  EXPECT_EQ(elements(future.result()), elements_with(x, 1));
  EXPECT_EQ(sim().used_streams(), std::vector{producer});
  EXPECT_EQ(sim().calls("stream_wait_event"), 0u);
}

// Streams beyond the hardware's connections delay each other, and creating one may wait for running
// work: there are few, and all but those of kernels are there before the first copy.
TEST_F(StagingOrder, StreamsAreFewAndMadeAtOnce) {
  TestTensor& x = device({{kLarge}});
  const CUstream producer = stream();
  static_cast<void>(cuda::stage_to_host(x.view(), on(producer)));
  const size_t first = sim().created_stream_flags().size();
  EXPECT_LE(first, 6u);
  TestTensor& strided = device({{kLarge}, std::vector<int64_t>{2}});
  TestTensor& pageable = host({{kLarge}}, 5);
  TestTensor& target = device({{kLarge}, std::vector<int64_t>{2}});
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(cuda::stage_to_host_async(x.acquire(), on(stream())).wait(10));
    EXPECT_TRUE(cuda::stage_to_host_async(strided.acquire(), on(stream())).wait(10));
    cuda::stage(pageable.view(), target.view(), on(producer));
    static_cast<void>(cuda::import_stream(1));
    static_cast<void>(cuda::allocation_stream(1));
  }
  EXPECT_EQ(sim().created_stream_flags().size(), first) << "a stream was made late";
  for (int i = 0; i < 20; ++i) {
    const cuda::StageOptions beside{.snapshot = false};
    EXPECT_TRUE(cuda::stage_to_host_async(strided.acquire(), on(stream()), beside).wait(10));
  }
  EXPECT_LE(sim().created_stream_flags().size(), first + 2) << "a stream for kernels each";
}

// A stream of the usual kind would wait for the legacy one, and hold it up.
TEST_F(StagingOrder, CopyStreamsAreNonBlocking) {
  warm_up();
  for (const unsigned flags : sim().created_stream_flags())
    EXPECT_EQ(flags, unsigned{CU_STREAM_NON_BLOCKING});
}

TEST_F(StagingOrder, IgnoresHeldLegacyStream) {
  warm_up();
  TestTensor& busy = device({{kSmall}});
  produce(CU_STREAM_LEGACY, busy, 2);
  sim().hold_stream(CU_STREAM_LEGACY);
  produce(CU_STREAM_LEGACY, busy, 3);
  TestTensor& x = device({{kLarge}});
  const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(stream()));
  EXPECT_TRUE(future.wait(10));
  sim().go_stream(CU_STREAM_LEGACY);
  EXPECT_EQ(elements(future.result()), elements_with(x, 1));
}

TEST_F(StagingOrder, WaitsSleepOnUntimedEvents) {
  warm_up();
  const std::vector<unsigned> flags = sim().created_event_flags();
  EXPECT_THAT(flags, testing::Each(testing::Truly(
                         [](unsigned each) { return (each & CU_EVENT_DISABLE_TIMING) != 0; })));
  EXPECT_THAT(flags, testing::Contains(testing::Truly(
                         [](unsigned each) { return (each & CU_EVENT_BLOCKING_SYNC) != 0; })));
  start({.schedule = Schedule::lazy});
  TestTensor& x = device({{1'000'000}});
  TestTensor& out = host({{1'000'000}});
  cuda::stage(x.view(), out.view(), on(stream()));
  EXPECT_EQ(elements(out), elements_with(x, 1));
  EXPECT_TRUE(cuda::stage_to_host_async(x.acquire(), on(stream())).wait(10));
  cuda::stage(out.view(), x.view(), on(stream()));
  EXPECT_EQ(sim().spinning_waits(), 0u);
}

// Each slot of either ring is used several times; the simulator runs as little as it may.
TEST_F(StagingOrder, RingSlotsWaitForReuse) {
  // Two slots of 1 MiB.
  start({.schedule = Schedule::lazy, .device_memory_bytes = size_t{3} << 20});
  const Layout every_second({2'000'000}, std::vector<int64_t>{2});
  TestTensor& x = device(every_second);
  TestTensor& out = host({{2'000'000}});
  const CUstream caller = stream();
  cuda::stage(x.view(), out.view(), on(caller));
  EXPECT_EQ(elements(out), elements_with(x, 1));
  EXPECT_EQ(elements(cuda::stage_to_host(x.view(), on(caller))), elements_with(x, 1));
  TestTensor& target = device(every_second, 9);
  cuda::stage(out.view(), target.view(), on(caller));
  std::fill_n(out.memory(), out.span(), uint8_t{0});  // it has been read
  sim().synchronize(caller);
  EXPECT_EQ(elements(target), elements_with(x, 1));
}

}  // namespace
}  // namespace dlbridge::test
