// SPDX-License-Identifier: Apache-2.0
// Order between streams without a copy: the dependency, the wait for a stream's work, the stream
// that a producer may be asked for.
#include "dlbridge/cuda/stream_order.h"

#include <set>

#include "dlbridge/cuda/device_memory.h"
#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

using cuda_sim::ReportKind;

constexpr int64_t kSize = 1000;
constexpr int64_t kLarge = 100'000;

class StreamOrder : public StagingTest {
 protected:
  void SetUp() override { start({.schedule = Schedule::lazy}); }
};

// ---- Dependencies

TEST_F(StreamOrder, LaterStreamWaits) {
  const CUstream earlier = stream();
  const CUstream later = stream();
  TestTensor& x = device({{kSize}});
  produce(earlier, x, 2);
  cuda::order_streams(on(earlier), on(later));
  const auto seen = consume(later, x);
  EXPECT_EQ(sim().calls("stream_synchronize") + sim().calls("event_synchronize"), 0u);
  EXPECT_TRUE(seen->empty()) << "the host does not wait";
  sim().synchronize(later);
  EXPECT_EQ(*seen, pattern(x.span(), 2));
}

TEST_F(StreamOrder, CoversEarlierWorkOnly) {
  start();
  const CUstream earlier = stream();
  const CUstream later = stream();
  TestTensor& x = device({{kSize}});
  TestTensor& y = device({{kSize}});
  produce(earlier, x, 2);
  cuda::order_streams(on(earlier), on(later));
  sim().hold_stream(earlier);
  produce(earlier, y, 3);  // after: not waited for
  EXPECT_EQ(consume(later, x)->size(), x.span());
  sim().go_stream(earlier);
}

TEST_F(StreamOrder, OfNumberedStreams) {
  const CUstream other = stream();
  TestTensor& x = device({{kSize}});
  for (const intptr_t number : {cuda::kLegacyStream, cuda::kPerThreadStream}) {
    in_context(1, [&] {
      const auto handle = reinterpret_cast<CUstream>(number);
      produce(handle, x, 2);
      cuda::order_streams(numbered(number), on(other));
      produce(other, x, 3);
      cuda::order_streams(on(other), numbered(number));
      const auto seen = consume(handle, x);
      sim().synchronize(handle);
      EXPECT_EQ(*seen, pattern(x.span(), 3));
    });
  }
}

TEST_F(StreamOrder, SkipsSameStreamAndNoSync) {
  const CUstream user = stream();
  cuda::order_streams(on(user), on(user));
  cuda::order_streams(numbered(cuda::kNoSync), on(user));
  cuda::order_streams(on(user), numbered(cuda::kNoSync));
  EXPECT_EQ(sim().calls("event_record") + sim().calls("stream_wait_event"), 0u);
  EXPECT_TRUE(sim().used_streams().empty());
}

// Other refused streams: staging/streams_test.cpp.
TEST_F(StreamOrder, RefusesOtherDevices) {
  const CUstream user = stream();
  const Stream elsewhere = on(stream(0), 0);
  expect_error(ErrorCode::stream_invalid, [&] { cuda::order_streams(elsewhere, on(user)); });
  expect_error(ErrorCode::stream_invalid, [&] { cuda::order_streams(on(user), elsewhere); });
  for (const int index : {-1, 2}) {
    const Stream nowhere = numbered(cuda::kLegacyStream, index);
    const std::function<void()> calls[] = {
        [&] { cuda::order_streams(nowhere, nowhere); },
        [&] { static_cast<void>(cuda::when_reached(nowhere)); },
        [&] { static_cast<void>(cuda::import_stream(index)); },
        [&] { static_cast<void>(cuda::device_empty(Shaped({kSize}).view(), nowhere)); },
    };
    for (const auto& call : calls) expect_error(ErrorCode::invalid_device, call);
  }
}

TEST_F(StreamOrder, FailedCallLeavesNothing) {
  for (const char* function : {"event_create_with_flags", "event_record", "stream_wait_event",
                               "stream_is_capturing", "stream_get_ctx", "ctx_push_current"}) {
    for (const bool for_good : {false, true}) {
      SCOPED_TRACE(function);
      if (for_good && std::string(function).starts_with("ctx_")) continue;
      start();
      if (for_good) expect_losses();
      const CUstream earlier = stream();
      const CUstream later = stream();
      const auto order = [&] { cuda::order_streams(on(earlier), on(later)); };
      sim().fail({function, 1, for_good ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_ERROR_INVALID_VALUE,
                  for_good});
      EXPECT_TRUE(error_of(order));
      EXPECT_EQ(sim().faults_struck(), 1);
      const auto next = error_of(order);
      EXPECT_EQ(next.has_value(), for_good) << "a device that failed stays so";
      if (next) {
        EXPECT_EQ(name(next->code()), "device_failed");
        EXPECT_NE(std::string(next->what()).find("failed earlier"), std::string::npos);
      }
    }
  }
}

// ---- When a stream has run what it had

TEST_F(StreamOrder, ReachedAfterEnqueuedWork) {
  start();
  const CUstream user = stream();
  TestTensor& x = device({{kSize}});
  sim().hold_stream(user);
  produce(user, x, 2);
  const cuda::Future reached = cuda::when_reached(on(user));
  EXPECT_EQ(reached.size(), 0u);
  EXPECT_FALSE(reached.wait(0.02));
  sim().go_stream(user);
  EXPECT_TRUE(reached.wait(10));
  EXPECT_EQ(elements(x), elements_with(x, 2));
  // What comes after is not waited for.
  const cuda::Future again = cuda::when_reached(on(user));
  sim().hold_stream(user);
  produce(user, x, 3);
  EXPECT_TRUE(again.wait(10));
  sim().go_stream(user);
}

TEST_F(StreamOrder, ReachedOrdersTheHost) {
  const CUstream user = stream();
  TestTensor& x = device({{kSize}});
  produce(user, x, 2);
  EXPECT_TRUE(cuda::when_reached(on(user)).wait(10));
  sim().device_free(x.memory());  // a report where anything might still run
  x.freed = true;
}

TEST_F(StreamOrder, NoSyncIsReachedAtOnce) {
  TestTensor& x = device({{kSize}});
  produce(stream(), x, 2);
  const cuda::Future reached = cuda::when_reached(numbered(cuda::kNoSync));
  EXPECT_TRUE(reached.done());
  EXPECT_EQ(reached.size(), 0u);
  EXPECT_TRUE(sim().used_streams().empty());
}

TEST_F(StreamOrder, PerThreadStreamIsTheCallers) {
  start();
  in_context(1, [&] {
    TestTensor& x = device({{kSize}});
    produce(CU_STREAM_PER_THREAD, x, 2);
    sim().hold_stream(CU_STREAM_PER_THREAD);
    produce(CU_STREAM_PER_THREAD, x, 3);
    const cuda::Future reached = cuda::when_reached(numbered(cuda::kPerThreadStream));
    EXPECT_FALSE(reached.wait(0.02));
    sim().go_stream(CU_STREAM_PER_THREAD);
    EXPECT_TRUE(reached.wait(10));
  });
}

TEST_F(StreamOrder, DroppedWaitBlocksNothing) {
  start();
  const CUstream user = stream();
  TestTensor& x = device({{kSize}});
  sim().hold_stream(user);
  produce(user, x, 2);
  static_cast<void>(cuda::when_reached(on(user)));
  TestTensor& y = device({{kLarge}}, 3);
  EXPECT_TRUE(cuda::stage_to_host_async(y.acquire(), on(stream())).wait(10));
  EXPECT_FALSE(cuda::drain(0.01));
  sim().go_stream(user);
  EXPECT_TRUE(cuda::drain(10));
}

TEST_F(StreamOrder, FailedWaitIsReported) {
  start();
  expect_losses();
  const CUstream user = stream();
  sim().hold_stream(user);
  sim().enqueue_fault(user, CUDA_ERROR_ILLEGAL_ADDRESS);
  const cuda::Future reached = cuda::when_reached(on(user));
  sim().go_stream(user);
  EXPECT_TRUE(reached.wait(10));
  expect_error(ErrorCode::device_failed, [&] { static_cast<void>(reached.result(0)); });
  expect_error(ErrorCode::device_failed, [&] { static_cast<void>(cuda::when_reached(on(user))); });
}

TEST_F(StreamOrder, UnstartedWaitLeavesNothing) {
  int struck = 0;
  for (const char* function : {"stream_create_with_flags", "event_create_with_flags",
                               "event_record", "stream_wait_event", "event_synchronize"}) {
    for (uint64_t nth = 1; nth <= 3; ++nth) {
      SCOPED_TRACE(std::string(function) + " fails at call " + std::to_string(nth));
      start();
      const CUstream user = stream();
      sim().fail({function, nth, CUDA_ERROR_INVALID_VALUE});
      cuda::Future reached;
      const auto thrown = error_of([&] { reached = cuda::when_reached(on(user)); });
      if (reached) {
        EXPECT_TRUE(reached.wait(10));
        EXPECT_TRUE(cuda::drain(10));
        EXPECT_EQ(sim().faults_struck() > 0, error_of([&] {
                                               static_cast<void>(reached.result(0));
                                             })->code() != ErrorCode::invalid_argument);
      }
      EXPECT_TRUE(reached || thrown);
      EXPECT_TRUE(!thrown || sim().faults_struck() == 1);
      struck += sim().faults_struck();
      sim().clear_faults();
      EXPECT_TRUE(cuda::when_reached(on(user)).wait(10));
    }
  }
  EXPECT_GT(struck, 4);
}

// ---- Import streams

TEST_F(StreamOrder, ImportStreamServesProducer) {
  const Stream imported = cuda::import_stream(1);
  const auto handle = static_cast<CUstream>(imported.handle);
  for (const int64_t size : {kSize, kLarge}) {
    TestTensor& x = device({{size}});
    produce(handle, x, 2);
    EXPECT_EQ(elements(cuda::stage_to_host(x.view(), imported)), elements_with(x, 2));
    produce(handle, x, 3);
    const cuda::Future future = cuda::stage_to_host_async(x.acquire(), imported);
    produce(handle, x, 4);
    EXPECT_EQ(elements(future.result()), elements_with(x, 3));
  }
}

TEST_F(StreamOrder, ImportStreamServesConsumer) {
  const Stream imported = cuda::import_stream(1);
  const auto handle = static_cast<CUstream>(imported.handle);
  for (const int64_t size : {kSize, kLarge}) {
    TestTensor& target = device({{size}});
    TestTensor& source = host({{size}}, 2);
    static_cast<void>(consume(handle, target));
    cuda::stage(source.view(), target.view(), imported);
    const auto seen = consume(handle, target);
    sim().synchronize(handle);
    EXPECT_EQ(*seen, pattern(target.span(), 2));
  }
}

// Neither a slow producer on another stream nor the legacy stream holds it up.
TEST_F(StreamOrder, ImportStreamIsUnordered) {
  start();
  const intptr_t number = reinterpret_cast<intptr_t>(cuda::import_stream(1).handle);
  EXPECT_TRUE(number < 0 || number > cuda::kPerThreadStream) << "a stream of the module's own";
  sim().hold_stream(CU_STREAM_LEGACY);
  produce(CU_STREAM_LEGACY, device({{1}}), 2);
  for (const unsigned flags : sim().created_stream_flags())
    EXPECT_EQ(flags, unsigned{CU_STREAM_NON_BLOCKING});
  TestTensor& busy = device({{kLarge}});
  const CUstream slow = stream();
  sim().hold_stream(slow);
  produce(slow, busy, 2);
  const cuda::Future waiting = cuda::stage_to_host_async(busy.acquire(), on(slow));
  const auto handle = static_cast<CUstream>(cuda::import_stream(1).handle);
  TestTensor& x = device({{kSize}});
  EXPECT_EQ(consume(handle, x)->size(), x.span());
  sim().go_stream(CU_STREAM_LEGACY);
  sim().go_stream(slow);
  EXPECT_TRUE(waiting.wait(10));
}

TEST_F(StreamOrder, BusyImportStreamsTakeTurns) {
  start();
  const auto next = [] { return static_cast<CUstream>(cuda::import_stream(1).handle); };
  std::set<CUstream> busy;
  for (int i = 0; i < 3; ++i) {
    const CUstream each = *busy.insert(next()).first;
    sim().hold_stream(each);
    produce(each, device({{1}}), 2);
  }
  EXPECT_EQ(busy.size(), 3u);
  EXPECT_EQ((std::set{next(), next(), next()}), busy);
  for (const CUstream each : busy) sim().go_stream(each);
}

TEST_F(StreamOrder, ImportStreamCreatesContext) {
  start({.active = {}});
  in_context(-1, [&] {
    EXPECT_EQ(cuda::import_stream(1).device.device_id, 1);
    EXPECT_TRUE(sim().context_stack().empty());
  });
  EXPECT_TRUE(sim().context_active(1));
  EXPECT_FALSE(sim().context_active(0));
  EXPECT_EQ(sim().reports().size(), sim().reports_of(ReportKind::context_created));
  sim().clear_reports();
}

// A slow producer keeps the one that it was given; three are given in turn.
TEST_F(StreamOrder, ImportStreamsRotate) {
  std::vector<void*> given;
  for (int i = 0; i < 6; ++i) given.push_back(cuda::import_stream(1).handle);
  std::vector<void*> first(given.begin(), given.begin() + 3);
  EXPECT_TRUE(std::equal(first.begin(), first.end(), given.begin() + 3));
  std::sort(first.begin(), first.end());
  EXPECT_EQ(std::unique(first.begin(), first.end()), first.end());
  EXPECT_EQ(cuda::allocation_stream(1).handle, cuda::allocation_stream(1).handle);
  EXPECT_FALSE(std::binary_search(first.begin(), first.end(), cuda::allocation_stream(1).handle));
}

TEST_F(StreamOrder, CapturedImportStreamIsSkipped) {
  const CUstream captured = stream();
  ASSERT_EQ(sim().begin_capture(captured), CUDA_SUCCESS);
  std::vector<CUstream> drawn;
  for (int i = 0; i < 3; ++i) {
    const auto given = static_cast<CUstream>(cuda::import_stream(1).handle);
    EXPECT_EQ(std::find(drawn.begin(), drawn.end(), given), drawn.end());
    drawn.push_back(given);
    ASSERT_EQ(sim().order(captured, given), CUDA_SUCCESS);
  }
  expect_error(ErrorCode::stream_capturing, [&] { static_cast<void>(cuda::import_stream(1)); });
  for (const CUstream each : drawn) ASSERT_EQ(sim().order(each, captured), CUDA_SUCCESS);
  EXPECT_EQ(sim().end_capture(captured), CUDA_SUCCESS);
  EXPECT_NE(cuda::import_stream(1).handle, nullptr);
}

}  // namespace
}  // namespace dlbridge::test
