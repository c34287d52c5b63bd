// SPDX-License-Identifier: Apache-2.0
// How callers name streams: DLPack's numbers and handles, and which names are refused.
#include <string>

#include "dlbridge/cuda/device_memory.h"
#include "dlbridge/cuda/stream_order.h"
#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

constexpr int64_t kSmall = 100;
constexpr int64_t kLarge = 40'000;

// ---- 1 and 2

struct Numbered {
  intptr_t number;
  int64_t size;
};

std::ostream& operator<<(std::ostream& out, const Numbered& each) {
  return out << (each.number == 1 ? "legacy" : "per_thread")
             << (each.size == kSmall ? "_small" : "_large");
}

class NumberedStreams : public StagingTest, public testing::WithParamInterface<Numbered> {
 protected:
  CUstream handle() const { return reinterpret_cast<CUstream>(GetParam().number); }
  Stream named() const { return numbered(GetParam().number); }
};

TEST_P(NumberedStreams, OrderWithCallersWork) {
  TestTensor& x = device({{GetParam().size}});
  produce(handle(), x, 2);
  EXPECT_EQ(elements(cuda::stage_to_host(x.view(), named())), elements_with(x, 2));
  produce(handle(), x, 3);
  const cuda::Future future = cuda::stage_to_host_async(x.acquire(), named());
  produce(handle(), x, 4);
  EXPECT_EQ(elements(future.result()), elements_with(x, 3));
  TestTensor& source = host({{GetParam().size}}, 5);
  cuda::stage(source.view(), x.view(), named());
  const auto read = consume(handle(), x);
  sim().synchronize(handle());
  EXPECT_EQ(*read, pattern(x.span(), 5));
  fill(source, 6);
  const cuda::Future sent = cuda::stage_async(source.acquire(), x.acquire(), named());
  const auto read_again = consume(handle(), x);
  EXPECT_TRUE(sent.wait(10));
  sim().synchronize(handle());
  EXPECT_EQ(*read_again, pattern(x.span(), 6));
}

// The per-thread stream of a thread of ours is another one: it must never be asked for there.
TEST_P(NumberedStreams, BelongToCallingThread) {
  in_context(1, [&] {
    TestTensor& x = device({{GetParam().size}});
    produce(handle(), x, 2);
    const cuda::Future future = cuda::stage_to_host_async(x.acquire(), named());
    produce(handle(), x, 3);
    EXPECT_EQ(elements(future.result()), elements_with(x, 2));
    TestTensor& source = host({{GetParam().size}}, 4);
    const cuda::Future sent =
        cuda::stage_async(source.acquire(), x.acquire(), named(), {.borrow = true});
    EXPECT_TRUE(sent.wait(10));
    EXPECT_EQ(elements(x), elements_with(x, 4));
  });
  const std::vector<CUstream> used = sim().used_streams();
  EXPECT_LE(std::count(used.begin(), used.end(), CU_STREAM_PER_THREAD), 1);
}

INSTANTIATE_TEST_SUITE_P(All, NumberedStreams,
                         testing::Values(Numbered{1, kSmall}, Numbered{1, kLarge},
                                         Numbered{2, kSmall}, Numbered{2, kLarge}),
                         testing::PrintToStringParamName());

// ---- -1

class UnorderedStreams : public StagingTest, public testing::WithParamInterface<int64_t> {};

TEST_P(UnorderedStreams, OrderNothing) {
  TestTensor& x = device({{GetParam()}});
  EXPECT_EQ(elements(cuda::stage_to_host(x.view(), numbered(cuda::kNoSync))), elements_with(x, 1));
  EXPECT_EQ(elements(cuda::stage_to_host_async(x.acquire(), numbered(cuda::kNoSync)).result()),
            elements_with(x, 1));
  EXPECT_EQ(sim().calls("stream_wait_event"), 0u);
}

INSTANTIATE_TEST_SUITE_P(All, UnorderedStreams, testing::Values(kSmall, kLarge),
                         testing::PrintToStringParamName());

// ---- What is refused

class RefusedStreams : public StagingTest {
 protected:
  // Held results exist only where a staging was possible before.
  void expect_record_refused(Stream given) {
    TestTensor& like = host({{kLarge}});
    const Loan result = cuda::pinned_empty(like.view());
    expect_error(ErrorCode::stream_capturing,
                 [&] { cuda::record_stream(result.view().data, given); });
  }

  // By every function, before anything is enqueued or taken over.
  void expect_refused(Stream given, const std::string& says,
                      ErrorCode code = ErrorCode::stream_invalid) {
    TestTensor& x = device({{kLarge}});
    TestTensor& source = host({{kLarge}});
    TestTensor& out = host({{kLarge}});
    const TensorView views[] = {x.view(), x.view()};
    const TensorView hosts[] = {source.view(), source.view()};
    Loan loans[] = {x.acquire(), x.acquire()};
    Loan a = x.acquire();
    Loan b = source.acquire();
    const std::function<void()> calls[] = {
        [&] { static_cast<void>(cuda::stage_to_host(x.view(), given)); },
        [&] { cuda::stage(x.view(), out.view(), given); },
        [&] { static_cast<void>(cuda::stage_to_host(views, given)); },
        [&] { static_cast<void>(cuda::stage_to_host_async(std::move(a), given)); },
        [&] { static_cast<void>(cuda::stage_async(std::move(a), std::move(b), given)); },
        [&] { static_cast<void>(cuda::stage_to_host_async(loans, given)); },
        [&] { cuda::stage(source.view(), x.view(), given); },
        [&] { cuda::stage(hosts, std::span(views, 1), given); },
        [&] { static_cast<void>(cuda::stage_async(std::move(b), std::move(a), given)); },
    };
    int index = 0;
    for (const auto& call : calls) {
      SCOPED_TRACE("call " + std::to_string(index++));
      const std::optional<Error> error = error_of(call);
      ASSERT_TRUE(error);
      if (error->code() == ErrorCode::invalid_argument) continue;  // two sources, one target
      EXPECT_EQ(name(error->code()), name(code));
      EXPECT_NE(std::string(error->what()).find(says), std::string::npos) << error->what();
      EXPECT_TRUE(a.owns_memory() && b.owns_memory() && loans[0].owns_memory() &&
                  loans[1].owns_memory());
    }
    EXPECT_EQ(x.releases() + source.releases(), 0);
    if (given.device.device_id == 1) expect_refused_without_copy(given, code);
    EXPECT_TRUE(sim().used_streams().empty());
  }

  // By the functions that take streams and copy nothing.
  void expect_refused_without_copy(Stream given, ErrorCode code) {
    const bool per_thread = given.handle == numbered(cuda::kPerThreadStream).handle;
    const Stream fine = numbered(per_thread ? cuda::kLegacyStream : cuda::kPerThreadStream);
    expect_error(code, [&] { cuda::order_streams(given, fine); });
    expect_error(code, [&] { cuda::order_streams(fine, given); });
    expect_error(code, [&] { static_cast<void>(cuda::when_reached(given)); });
    expect_error(code,
                 [&] { static_cast<void>(cuda::device_empty(Shaped({kSmall}).view(), given)); });
    EXPECT_EQ(sim().calls("malloc_async"), 0u);
  }
};

// Rule: 78
TEST_F(RefusedStreams, ZeroMeansEitherOfTwo) {
  expect_refused(numbered(0), "pass 1 for the legacy");
}
TEST_F(RefusedStreams, NegativeNumbersBelowMinusOne) {
  expect_refused(numbered(-2), "expected 1, 2");
}
TEST_F(RefusedStreams, NamedDeviceDiffers) {
  expect_refused(on(stream(1), 0), "the stream belongs to cuda:0, the tensor is on cuda:1");
}
TEST_F(RefusedStreams, StreamsDeviceDiffers) {
  expect_refused(on(stream(0), 1), "the stream belongs to cuda:0, the tensor is on cuda:1");
}

// Some drivers answer 709 about a destroyed stream, some 400. Neither says anything of the device.
TEST_F(RefusedStreams, Destroyed) {
  TestTensor& x = device({{kLarge}});
  const CUstream gone = sim().make_stream(CU_STREAM_NON_BLOCKING, 1);
  cuda::order_streams(on(stream()), numbered(cuda::kNoSync));  // the module makes its streams
  sim().destroy_stream(gone);
  expect_refused(on(gone), "CUDA does not know it");
  EXPECT_EQ(elements(cuda::stage_to_host(x.view(), on(stream()))), elements_with(x, 1));
}

// In another context of the device 1 and 2 are other streams, and handles are of that context.
TEST_F(RefusedStreams, OfAnotherContext) {
  in_context(1, [&] {
    const CUcontext own = sim().use_user_context(1);
    const CUstream handle = sim().make_stream_in(own, CU_STREAM_NON_BLOCKING);
    for (const Stream given : {numbered(1), numbered(2), on(handle)})
      expect_refused(given, "not the device's primary one");
    sim().use_user_context(0);  // another device's: the tensor's device is meant
    TestTensor& x = device({{kLarge}});
    EXPECT_EQ(elements(cuda::stage_to_host(x.view(), numbered(1))), elements_with(x, 1));
  });
}

// It is current to another thread, and may be to one only.
TEST_F(RefusedStreams, OfGreenContext) {
  const CUcontext green = sim().make_green_context(1);
  const CUstream handle = sim().make_stream_in(green, CU_STREAM_NON_BLOCKING);
  in_context(1, [&] {
    ASSERT_EQ(sim().api().ctx_push_current(green), CUDA_SUCCESS);
    in_context(1, [&] { expect_refused(on(handle), "not the device's primary one"); });
    for (const Stream given : {numbered(1), numbered(2), on(handle)})
      expect_refused(given, "not the device's primary one");
  });
}

// ---- Captures

TEST_F(RefusedStreams, Captured) {
  for (const CUstreamCaptureMode mode :
       {CU_STREAM_CAPTURE_MODE_GLOBAL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
        CU_STREAM_CAPTURE_MODE_RELAXED}) {
    start();
    const CUstream captured = stream();
    ASSERT_EQ(sim().begin_capture(captured, mode), CUDA_SUCCESS);
    expect_refused(on(captured), "CUDA graph", ErrorCode::stream_capturing);
    expect_record_refused(on(captured));
    EXPECT_EQ(sim().captured_operations(), 0u);
    EXPECT_EQ(sim().end_capture(captured), CUDA_SUCCESS) << "the capture was broken";
  }
}

TEST_F(RefusedStreams, CapturedPerThread) {
  use_device(1);
  ASSERT_EQ(sim().begin_capture(CU_STREAM_PER_THREAD), CUDA_SUCCESS);
  expect_refused(numbered(2), "CUDA graph", ErrorCode::stream_capturing);
  EXPECT_EQ(sim().captured_operations(), 0u);
  EXPECT_EQ(sim().end_capture(CU_STREAM_PER_THREAD), CUDA_SUCCESS);
}

// Of the legacy stream CUDA answers 906 while a blocking stream is captured, and breaks nothing.
TEST_F(RefusedStreams, LegacyDuringCapture) {
  use_device(1);
  const CUstream blocking = sim().make_stream(CU_STREAM_DEFAULT, 1);
  ASSERT_EQ(sim().begin_capture(blocking), CUDA_SUCCESS);
  expect_refused(numbered(1), "CUDA graph", ErrorCode::stream_capturing);
  EXPECT_EQ(sim().captured_operations(), 0u);
  EXPECT_EQ(sim().end_capture(blocking), CUDA_SUCCESS) << "the capture was broken";
}

}  // namespace
}  // namespace dlbridge::test
