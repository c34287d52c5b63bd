// SPDX-License-Identifier: Apache-2.0
// Asynchronous calls that watch for the end before they return: small ones take the caller's own
// stream and no thread, and whatever does not end in time is as asynchronous as ever.
#include <chrono>

#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

using Clock = std::chrono::steady_clock;
using cuda::StageOptions;

constexpr int64_t kSmall = 100;
constexpr int64_t kLarge = 100'000;

// Longer than anything that a test waits for.
constexpr double kLong = 60;

enum class Call : uint8_t { fresh, strided, out, pinned_out, batch, sent, sent_pinned };

std::ostream& operator<<(std::ostream& out, Call call) {
  const char* const names[] = {"fresh", "strided", "out",        "pinned_out",
                               "batch", "sent",    "sent_pinned"};
  return out << names[static_cast<size_t>(call)];
}

class SpinWait : public StagingTest, public testing::WithParamInterface<Call> {
 protected:
  bool to_device() const { return GetParam() == Call::sent || GetParam() == Call::sent_pinned; }

  // The call, and the tensors that it is about.
  cuda::Future stage(Stream outer, int64_t size, const StageOptions& options) {
    x_ = &device(GetParam() == Call::strided ? Layout({size}, std::vector<int64_t>{2})
                                             : Layout({size}));
    if (static_cast<CUstream>(outer.handle) != CU_STREAM_PER_THREAD && !to_device())
      produce(static_cast<CUstream>(outer.handle), *x_, 2);
    const auto on_host = [&](bool pinned) -> TestTensor& {
      return *(other_ = pinned ? &foreign_pinned({{size}}, 5) : &host({{size}}, 5));
    };
    other_ = nullptr;
    switch (GetParam()) {
      case Call::fresh:
      case Call::strided:
        return cuda::stage_to_host_async(x_->acquire(), outer, options);
      case Call::out:
        return cuda::stage_async(x_->acquire(), on_host(false).acquire(), outer, options);
      case Call::pinned_out:
        return cuda::stage_async(x_->acquire(), on_host(true).acquire(), outer, options);
      case Call::batch: {
        Loan loans[] = {x_->acquire(), device({{1}}).acquire()};
        return cuda::stage_to_host_async(loans, outer, options);
      }
      case Call::sent:
        return cuda::stage_async(on_host(false).acquire(), x_->acquire(), outer, options);
      case Call::sent_pinned:
        return cuda::stage_async(on_host(true).acquire(), x_->acquire(), outer, options);
    }
    return {};
  }

  // What a Future that is done has to have brought. `seed` was in the source.
  void expect_arrived(cuda::Future& future, uint32_t seed = 2) {
    EXPECT_TRUE(future.done());
    EXPECT_EQ((to_device() ? other_ : x_)->releases(), 1) << "the source is released first";
    if (to_device()) {
      EXPECT_EQ(elements(*x_), elements_with(*other_, 5));
    } else {
      EXPECT_EQ(elements(future.result()), elements_with(*x_, seed));
    }
    // With the Future go the shares in what was handed in; the operation's own are gone soon.
    future = {};
    const auto until = Clock::now() + std::chrono::seconds(10);
    const auto returned = [&] {
      return x_->releases() == 1 && (other_ == nullptr || other_->releases() == 1);
    };
    while (!returned() && Clock::now() < until) std::this_thread::yield();
    EXPECT_EQ(x_->releases(), 1);
    if (other_ != nullptr) {
      EXPECT_EQ(other_->releases(), 1);
    }
  }

  TestTensor* x_ = nullptr;
  TestTensor* other_ = nullptr;
};

TEST_P(SpinWait, SmallIsDoneOnReturn) {
  start({.schedule = Schedule::lazy});
  const CUstream caller = stream();
  cuda::Future future = stage(on(caller), kSmall, {.spin_seconds = kLong});
  EXPECT_TRUE(future.done());
  // Strided elements pass through a ring, whose memory is allocated on a stream of the module.
  if (GetParam() != Call::strided) {
    EXPECT_EQ(sim().used_streams(), std::vector{caller});
    EXPECT_EQ(sim().calls("stream_wait_event"), 0u);
  }
  EXPECT_GT(sim().calls("event_query"), 0u);
  expect_arrived(future);
}

TEST_P(SpinWait, LateOneIsHandedOver) {
  const CUstream caller = stream();
  static_cast<void>(cuda::stage_to_host(device({{1}}).view(), on(caller)));
  sim().hold_stream(caller);
  const auto before = Clock::now();
  cuda::Future future = stage(on(caller), kSmall, {.spin_seconds = 0.05});
  const std::chrono::duration<double> took = Clock::now() - before;
  EXPECT_GE(took.count(), 0.05);
  EXPECT_LT(took.count(), 20);
  EXPECT_FALSE(future.done());
  EXPECT_EQ((to_device() ? other_ : x_)->releases(), 0) << "still in use";
  ASSERT_TRUE(sim().wait_until_blocked(1)) << "a thread is to sleep until it is over";
  const uint64_t asked = sim().calls("event_query");
  if (GetParam() != Call::sent_pinned && GetParam() != Call::sent)
    produce(caller, *x_, 3);  // what is enqueued now comes behind
  EXPECT_FALSE(future.wait(0.02));
  EXPECT_EQ(sim().calls("event_query"), asked) << "polling has ended";
  sim().go_stream(caller);
  EXPECT_TRUE(future.wait(10));
  expect_arrived(future);
}

TEST_P(SpinWait, LargeIsWatchedToo) {
  const CUstream caller = stream();
  cuda::Future future = stage(on(caller), kLarge, {.spin_seconds = kLong});
  EXPECT_TRUE(future.done());
  expect_arrived(future);
}

// On the thread that would see its end it is another stream.
TEST_P(SpinWait, PerThreadStreamIsTheCallers) {
  in_context(1, [&] {
    cuda::Future future = stage(numbered(cuda::kPerThreadStream), kSmall, {.spin_seconds = 0});
    EXPECT_TRUE(future.wait(10));
    expect_arrived(future, 1);
  });
  const std::vector<CUstream> used = sim().used_streams();
  EXPECT_EQ(std::count(used.begin(), used.end(), CU_STREAM_PER_THREAD), 1);
}

// ---- Failures

TEST_P(SpinWait, FailedQueryIsIgnored) {
  start({.schedule = Schedule::lazy});
  const CUstream caller = stream();
  sim().fail({"event_query", 1, CUDA_ERROR_INVALID_VALUE});
  cuda::Future future = stage(on(caller), kSmall, {.spin_seconds = kLong});
  EXPECT_EQ(sim().faults_struck(), 1);
  EXPECT_TRUE(future.done()) << "the wait has asked again";
  expect_arrived(future);
}

TEST_P(SpinWait, DeathDuringSpinIsReported) {
  expect_losses();
  const CUstream caller = stream();
  static_cast<void>(cuda::stage_to_host(device({{1}}).view(), on(caller)));
  sim().hold_stream(caller);
  sim().enqueue_fault(caller, CUDA_ERROR_ILLEGAL_ADDRESS);
  std::thread later([&] {
    const uint64_t asked = sim().calls("event_query");
    // The pool asks, too, but not so often.
    while (sim().calls("event_query") < asked + 1000) std::this_thread::yield();
    sim().go_stream(caller);
  });
  cuda::Future future;
  const auto thrown =
      error_of([&] { future = stage(on(caller), kSmall, {.spin_seconds = kLong}); });
  later.join();
  ASSERT_FALSE(thrown) << thrown->what();
  ASSERT_TRUE(future.done());
  expect_error(ErrorCode::device_failed, [&] { static_cast<void>(future.result()); });
  EXPECT_EQ(x_->releases(), 0) << "the device may still use it";
  TestTensor& next = device({{kSmall}});
  expect_error(ErrorCode::device_failed,
               [&] { static_cast<void>(cuda::stage_to_host(next.view(), on(caller))); });
}

TEST_P(SpinWait, DeathAfterSpinIsReported) {
  expect_losses();
  const CUstream caller = stream();
  static_cast<void>(cuda::stage_to_host(device({{1}}).view(), on(caller)));
  sim().hold_stream(caller);
  const cuda::Future future = stage(on(caller), kSmall, {.spin_seconds = 0.01});
  ASSERT_TRUE(sim().wait_until_blocked(1));
  sim().kill_device(1, CUDA_ERROR_LAUNCH_FAILED);
  expect_error(ErrorCode::device_failed, [&] { static_cast<void>(future.result()); });
  EXPECT_EQ(x_->releases(), 0);
}

INSTANTIATE_TEST_SUITE_P(All, SpinWait,
                         testing::Values(Call::fresh, Call::strided, Call::out, Call::pinned_out,
                                         Call::batch, Call::sent, Call::sent_pinned),
                         testing::PrintToStringParamName());

class UnorderedSpinWait : public StagingTest {};

TEST_F(UnorderedSpinWait, UsesUnorderedCopyStream) {
  TestTensor& x = device({{kSmall}});
  const cuda::Future future =
      cuda::stage_to_host_async(x.acquire(), numbered(cuda::kNoSync), {.spin_seconds = kLong});
  EXPECT_TRUE(future.done());
  EXPECT_FALSE(copy_stream_handles().empty());
  EXPECT_EQ(sim().calls("stream_wait_event"), 0u);
  EXPECT_EQ(elements(future.result()), elements_with(x, 1));
}

}  // namespace
}  // namespace dlbridge::test
