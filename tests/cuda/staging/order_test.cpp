// SPDX-License-Identifier: Apache-2.0
// The order of a staging among the work of its caller's streams: what came before it on the stream
// is seen, what comes after waits, and nothing else is ordered with it.
#include <gmock/gmock.h>

#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

using cuda::StageOptions;
using cuda_sim::Schedule;

// ---- Every way that elements can take, under schedules that run things early and late

struct Way {
  const char* name;
  Layout layout;
};

std::ostream& operator<<(std::ostream& out, const Way& way) { return out << way.name; }

std::vector<Way> ways() {
  return {
      {"small", Layout({7, 5})},
      {"small_strided", Layout({7, 5}, {1, 9})},
      {"one_element", Layout(std::vector<int64_t>{})},
      {"large", Layout({80'000})},
      {"large_in_another_order", Layout({100, 800}, {1, 100})},
      {"rows", Layout({20, 2048}, {4096, 1})},
      {"boxes", Layout({4, 8, 1100}, {16'000, 2000, 1})},
      {"every_second", Layout({160, 500}, {1100, 2})},
      {"backwards", Layout({80'000}, std::vector<int64_t>{-1})},
      {"broadcast", Layout({50, 40, 30}, {30, 0, 1})},
      {"bytes", Layout({400'001}, kInt8)},
  };
}

enum class Out : uint8_t { fresh, pageable, strided_pageable, pinned, foreign_pinned };

const char* name_of(Out out) {
  switch (out) {
    case Out::fresh:
      return "fresh";
    case Out::pageable:
      return "pageable";
    case Out::strided_pageable:
      return "strided_pageable";
    case Out::pinned:
      return "pinned";
    case Out::foreign_pinned:
      return "foreign_pinned";
  }
  return "?";
}

struct Case {
  Way way;
  Out out;
  bool async;
  Schedule schedule;
};

std::ostream& operator<<(std::ostream& out, const Case& each) {
  return out << each.way << "_to_" << name_of(each.out) << (each.async ? "_async" : "") << "_"
             << (each.schedule == Schedule::eager ? "eager" : "lazy");
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Way& way : ways()) {
    for (const Out out :
         {Out::fresh, Out::pageable, Out::strided_pageable, Out::pinned, Out::foreign_pinned}) {
      for (const bool async : {false, true}) {
        for (const Schedule schedule : {Schedule::eager, Schedule::lazy})
          all.push_back({way, out, async, schedule});
      }
    }
  }
  return all;
}

// The same extents with every second place left free, so that nothing is one run.
Layout spread(const Layout& layout) {
  std::vector<int64_t> strides = row_major(layout.shape);
  for (int64_t& stride : strides) stride *= 2;
  return {layout.shape, strides, layout.dtype};
}

class OrderOfEveryWay : public StagingTest, public testing::WithParamInterface<Case> {
 protected:
  void SetUp() override {
    Config config;
    config.schedule = GetParam().schedule;
    start(config);
  }

  // The other side, on the host, as the case has it. `pinned` is kept alive by the caller.
  TensorView other_side(Loan& pinned) {
    const Layout& layout = GetParam().way.layout;
    const Layout dense(layout.shape, layout.dtype);
    switch (GetParam().out) {
      case Out::strided_pageable:
        return host(spread(layout)).view();
      case Out::foreign_pinned:
        return foreign_pinned(dense).view();
      case Out::pinned: {
        const TestTensor& like = host(dense);
        pinned = cuda::pinned_empty(like.view());
        return pinned.view();
      }
      default:
        return host(dense).view();
    }
  }
};

TEST_P(OrderOfEveryWay, ToHost) {
  TestTensor& x = device(GetParam().way.layout);
  const cudaStream_t producer = stream();
  produce(producer, x, 2);
  Loan pinned;
  if (GetParam().out == Out::fresh) {
    const Loan result = GetParam().async
                            ? cuda::stage_to_host_async(x.acquire(), on(producer)).result()
                            : cuda::stage_to_host(x.view(), on(producer));
    EXPECT_EQ(elements(result), elements_with(x, 2));
  } else {
    const TensorView out = other_side(pinned);
    if (GetParam().async) {
      Loan target;
      target.describe(out);
      const Loan result =
          cuda::stage_to_host_async(x.acquire(), std::move(target), on(producer)).result();
      EXPECT_EQ(result.view().data, out.data);
    } else {
      cuda::stage_to_host(x.view(), out, on(producer));
    }
    EXPECT_EQ(elements(out), elements_with(x, 2));
  }
  produce(producer, x, 3);  // must come behind
  sim().synchronize(producer);
}

TEST_P(OrderOfEveryWay, ToDevice) {
  if (GetParam().way.layout.strides != std::vector<int64_t>{} &&
      std::count(GetParam().way.layout.strides.begin(), GetParam().way.layout.strides.end(), 0) > 0)
    return;  // such a target is refused: its elements lie over one another
  TestTensor& target = device(GetParam().way.layout);
  const cudaStream_t consumer = stream();
  const auto before = consume(consumer, target);
  Loan pinned;
  const TensorView source = other_side(pinned);
  const Layout layout({source.shape, source.shape + source.ndim},
                      {source.strides, source.strides + source.ndim}, DType(source.dtype));
  const std::vector<uint8_t> content = pattern(layout.span, 5);
  std::copy(content.begin(), content.end(), static_cast<uint8_t*>(source.data));
  if (GetParam().async) {
    Loan acquired;
    acquired.describe(source);
    const cuda::Future future =
        cuda::stage_to_device_async(std::move(acquired), target.acquire(), on(consumer));
    const auto after = consume(consumer, target);
    EXPECT_EQ(future.result().view().data, target.view().data);
    sim().synchronize(consumer);
    EXPECT_EQ(target.layout().gather(after->data()), layout.gather(content.data()));
  } else {
    cuda::stage_to_device(source, target.view(), on(consumer));
    const auto after = consume(consumer, target);
    sim().synchronize(consumer);
    EXPECT_EQ(target.layout().gather(after->data()), layout.gather(content.data()));
  }
  EXPECT_EQ(*before, pattern(target.span(), 1));
}

INSTANTIATE_TEST_SUITE_P(All, OrderOfEveryWay, testing::ValuesIn(cases()),
                         testing::PrintToStringParamName());

// ---- Dependencies

class StagingOrder : public StagingTest {
 protected:
  static constexpr int64_t kSmall = 100;
  static constexpr int64_t kLarge = 40'000;  // floats: above 64 KiB

  // Makes the first copy stream, and tells its streams.
  std::vector<cudaStream_t> warm_up() {
    TestTensor& x = device({{kLarge}});
    EXPECT_TRUE(cuda::stage_to_host_async(x.acquire(), on(stream())).wait(10));
    TestTensor& strided = device({{kLarge}, std::vector<int64_t>{2}});
    EXPECT_TRUE(cuda::stage_to_host_async(strided.acquire(), on(stream())).wait(10));
    return copy_stream_handles();
  }
};

TEST_F(StagingOrder, SnapshotDelaysProducer) {
  const std::vector<cudaStream_t> copy_streams = warm_up();
  ASSERT_FALSE(copy_streams.empty());
  for (const cudaStream_t copy_stream : copy_streams) sim().hold_stream(copy_stream);
  TestTensor& x = device({{kLarge}});
  const cudaStream_t producer = stream();
  const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(producer));
  produce(producer, x, 2);
  EXPECT_EQ(sim().read(x.memory(), x.span()), pattern(x.span(), 1));
  for (const cudaStream_t copy_stream : copy_streams) sim().go_stream(copy_stream);
  EXPECT_EQ(elements(future.result()), elements_with(x, 1));
  sim().synchronize(producer);
  EXPECT_EQ(sim().read(x.memory(), x.span()), pattern(x.span(), 2));
}

TEST_F(StagingOrder, NoSnapshotKeepsProducerRunning) {
  const std::vector<cudaStream_t> copy_streams = warm_up();
  for (const cudaStream_t copy_stream : copy_streams) sim().hold_stream(copy_stream);
  TestTensor& x = device({{kLarge}});
  const cudaStream_t producer = stream();
  const cuda::Future future =
      cuda::stage_to_host_async(x.acquire(), on(producer), {.snapshot = false});
  const auto read = consume(producer, x);
  EXPECT_EQ(read->size(), x.span()) << "the producer waits for the copy";
  EXPECT_FALSE(future.done());
  for (const cudaStream_t copy_stream : copy_streams) sim().go_stream(copy_stream);
  EXPECT_EQ(elements(future.result()), elements_with(x, 1));
}

// Without the dependency the caller must not write: the simulator reports it.
TEST_F(StagingOrder, NoSnapshotWriteRaces) {
  TestTensor& x = device({{kLarge}});
  const cudaStream_t producer = stream();
  sim().hold();
  const cuda::Future future =
      cuda::stage_to_host_async(x.acquire(), on(producer), {.snapshot = false});
  produce(producer, x, 2);
  EXPECT_EQ(sim().reports_of(cuda_sim::ReportKind::race), 1u);
  sim().clear_reports();
  sim().go();
  EXPECT_TRUE(future.wait(10));
}

TEST_F(StagingOrder, SmallCopiesUseCallersStream) {
  TestTensor& x = device({{kSmall}});
  const cudaStream_t producer = stream();
  produce(producer, x, 2);
  EXPECT_EQ(elements(cuda::stage_to_host(x.view(), on(producer))), elements_with(x, 2));
  TestTensor& out = host({{kSmall}});
  cuda::stage_to_host(x.view(), out.view(), on(producer));
  EXPECT_EQ(elements(out), elements_with(x, 2));
  TestTensor& target = device({{kSmall}}, 7);
  cuda::stage_to_device(out.view(), target.view(), on(producer));
  EXPECT_EQ(sim().used_streams(), std::vector{producer});
  EXPECT_EQ(sim().calls("stream_wait_event"), 0u);
  EXPECT_EQ(sim().calls("event_record"), 3u);  // one end each
}

TEST_F(StagingOrder, SmallCopiesArePolled) {
  Config config;
  config.schedule = Schedule::lazy;
  start(config);
  const cudaStream_t producer = stream();
  TestTensor& x = device({{kSmall}});
  for (uint32_t seed = 1; seed < 30; ++seed) {
    produce(producer, x, seed);
    EXPECT_EQ(elements(cuda::stage_to_host(x.view(), on(producer))), elements_with(x, seed));
  }
  EXPECT_GT(sim().calls("event_query"), 40u) << "none was asked too early";
}

TEST_F(StagingOrder, LargeCopiesUseCopyStream) {
  TestTensor& x = device({{kLarge}});
  const cudaStream_t producer = stream();
  const Loan result = cuda::stage_to_host(x.view(), on(producer));
  EXPECT_FALSE(copy_stream_handles().empty());
  EXPECT_EQ(elements(result), elements_with(x, 1));
}

// A stream of the usual kind would wait for the legacy one, and hold it up.
TEST_F(StagingOrder, CopyStreamsAreNonBlocking) {
  warm_up();
  for (const unsigned flags : sim().created_stream_flags())
    EXPECT_EQ(flags, unsigned{cudaStreamNonBlocking});
}

TEST_F(StagingOrder, IgnoresHeldLegacyStream) {
  warm_up();
  TestTensor& busy = device({{kSmall}});
  produce(cudaStreamLegacy, busy, 2);
  sim().hold_stream(cudaStreamLegacy);
  produce(cudaStreamLegacy, busy, 3);
  TestTensor& x = device({{kLarge}});
  const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(stream()));
  EXPECT_TRUE(future.wait(10));
  sim().go_stream(cudaStreamLegacy);
  EXPECT_EQ(elements(future.result()), elements_with(x, 1));
}

TEST_F(StagingOrder, WaitsSleepOnUntimedEvents) {
  warm_up();
  const std::vector<unsigned> flags = sim().created_event_flags();
  EXPECT_THAT(flags, testing::Each(testing::Truly(
                         [](unsigned each) { return (each & cudaEventDisableTiming) != 0; })));
  EXPECT_THAT(flags, testing::Contains(testing::Truly(
                         [](unsigned each) { return (each & cudaEventBlockingSync) != 0; })));
  Config config;
  config.schedule = Schedule::lazy;
  start(config);
  TestTensor& x = device({{1'000'000}});
  TestTensor& out = host({{1'000'000}});
  cuda::stage_to_host(x.view(), out.view(), on(stream()));
  EXPECT_EQ(elements(out), elements_with(x, 1));
  EXPECT_TRUE(cuda::stage_to_host_async(x.acquire(), on(stream())).wait(10));
  cuda::stage_to_device(out.view(), x.view(), on(stream()));
  EXPECT_EQ(sim().spinning_waits(), 0u);
}

// Each slot of either ring is used several times; the simulator runs as little as it may.
TEST_F(StagingOrder, RingSlotsWaitForReuse) {
  Config config;
  config.schedule = Schedule::lazy;
  config.device_memory_bytes = size_t{3} << 20;  // two slots of 1 MiB
  start(config);
  const Layout every_second({2'000'000}, std::vector<int64_t>{2});
  TestTensor& x = device(every_second);
  TestTensor& out = host({{2'000'000}});
  const cudaStream_t caller = stream();
  cuda::stage_to_host(x.view(), out.view(), on(caller));
  EXPECT_EQ(elements(out), elements_with(x, 1));
  EXPECT_EQ(elements(cuda::stage_to_host(x.view(), on(caller))), elements_with(x, 1));
  TestTensor& target = device(every_second, 9);
  cuda::stage_to_device(out.view(), target.view(), on(caller));
  std::fill_n(out.memory(), out.span(), uint8_t{0});  // it has been read
  sim().synchronize(caller);
  EXPECT_EQ(elements(target), elements_with(x, 1));
}

}  // namespace
}  // namespace dlbridge::test
