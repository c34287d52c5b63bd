// What a toy would get wrong, and how it shows. Elsewhere: lost edges (staging_order_test.cpp),
// errors on every path (staging_failure_test.cpp), a missing driver (staging_process_test.cpp).
#include <chrono>
#include <ctime>

#include "pinned/size_classes.h"
#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

using Clock = std::chrono::steady_clock;

class StagingIsNoToy : public StagingTest {
 protected:
  static constexpr int64_t kLarge = 100'000;

  static double process_seconds() {
    timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  }
};

// Waiting for the whole device instead of for the copy.
TEST_F(StagingIsNoToy, ACopyEndsWhileAnUnrelatedStreamSpins) {
  const cudaStream_t spinning = stream();
  TestTensor& busy = device({{10}});
  sim().hold_stream(spinning);
  produce(spinning, busy, 2);
  for (const int64_t size : {int64_t{100}, kLarge}) {
    TestTensor& x = device({{size}}, 3);
    const cudaStream_t caller = stream();
    EXPECT_EQ(elements(cuda::stage_to_host(x.view(), on(caller))), elements_with(x, 3));
    EXPECT_EQ(elements(cuda::stage_to_host_async(x.acquire(), on(caller)).result()),
              elements_with(x, 3));
    TestTensor& source = host({{size}}, 4);
    cuda::stage_to_device(source.view(), x.view(), on(caller));
    sim().synchronize(caller);
    EXPECT_EQ(elements(x), elements_with(x, 4));
  }
  EXPECT_NE(elements(busy), elements_with(busy, 2)) << "it did not spin";
}

// One copy stream for all: see also SlowProducers.
TEST_F(StagingIsNoToy, ASlowProducerDelaysNoOtherFuture) {
  const cudaStream_t slow = stream();
  TestTensor& x = device({{kLarge}});
  TestTensor& y = device({{kLarge}}, 3);
  sim().hold_stream(slow);
  produce(slow, x, 2);
  const cuda::Future late = cuda::stage_to_host_async(x.acquire(), on(slow));
  const cuda::Future early = cuda::stage_to_host_async(y.acquire(), on(stream()));
  EXPECT_TRUE(early.wait(10));
  EXPECT_FALSE(late.done());
  sim().go_stream(slow);
  EXPECT_TRUE(late.wait(10));
}

// A destructor that waits.
TEST_F(StagingIsNoToy, DroppingAFutureTakesNoTime) {
  TestTensor& x = device({{kLarge}});
  std::atomic<int64_t> released_at{0};
  x.on_release = [&] { released_at = Clock::now().time_since_epoch().count(); };
  sim().hold();
  auto best = Clock::duration::max();
  for (int i = 0; i < 5; ++i) {
    std::optional<cuda::Future> future = cuda::stage_to_host_async(x.acquire(), on(stream()));
    const auto begin = Clock::now();
    future.reset();
    best = std::min(best, Clock::now() - begin);
  }
  EXPECT_LT(best, std::chrono::microseconds(20));
  EXPECT_EQ(x.releases(), 0);
  const auto done = Clock::now();
  sim().go();
  EXPECT_TRUE(cuda::drain(10));
  EXPECT_EQ(x.releases(), 5);
  EXPECT_LT(Clock::duration(released_at) - done.time_since_epoch(), std::chrono::seconds(1));
}

// A wait that polls.
TEST_F(StagingIsNoToy, WaitingCostsNoProcessorTime) {
  TestTensor& x = device({{kLarge}});
  sim().hold();
  const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(stream()));
  ASSERT_TRUE(sim().wait_until_blocked(1));
  const double before = process_seconds();
  EXPECT_FALSE(future.wait(1));
  EXPECT_LT(process_seconds() - before, 0.01);
  sim().go();
  EXPECT_TRUE(future.wait(10));
}

// Powers of two.
TEST_F(StagingIsNoToy, BlocksAreHardlyLargerThanWhatTheyHold) {
  constexpr size_t kGiB = size_t{1} << 30;
  static_assert(cuda::pinned::large_bytes(4 * kGiB + 1) - (4 * kGiB + 1) < size_t{2} << 20);
  constexpr size_t kBytes = (size_t{64} << 20) + 1;
  TestTensor& x = device({{int64_t{kBytes}}, kInt8});
  const Loan result = cuda::stage_to_host(x.view(), on(stream()));
  const cuda::PinnedStats stats = cuda::pinned_stats();
  EXPECT_GE(stats.owned, kBytes);
  EXPECT_LE(stats.owned - kBytes, size_t{2} << 20);
  EXPECT_LE(stats.registered - kBytes, size_t{2} << 20);
}

// A contiguous copy of a strided tensor, on the device.
TEST_F(StagingIsNoToy, AStridedTensorNeedsLittleDeviceMemory) {
  constexpr int64_t kFloats = int64_t{18} << 20;  // 72 MiB
  TestTensor& x = device({{kFloats}, std::vector<int64_t>{2}});
  const cudaStream_t caller = stream();
  TestTensor& target = device({{kFloats}, std::vector<int64_t>{2}}, 3);
  {
    const Loan result = cuda::stage_to_host(x.view(), on(caller));
    EXPECT_LE(sim().peak_async_bytes(), size_t{64} << 20);
    EXPECT_GT(sim().peak_async_bytes(), 0u);
    sim().reset_peaks();
    cuda::stage_to_device(result.view(), target.view(), on(caller));
  }
  sim().synchronize(caller);
  EXPECT_LE(sim().peak_async_bytes(), size_t{64} << 20);
  EXPECT_TRUE(elements(target) == elements_with(x, 1));
  EXPECT_EQ(sim().async_bytes(), 0u);
}

// Fast only when nothing is held: then every result would cost a registration.
TEST_F(StagingIsNoToy, HeldResultsShareRegistrations) {
  std::vector<Loan> held;
  TestTensor& x = device({{1000}});
  const cudaStream_t caller = stream();
  for (int i = 0; i < 200; ++i) held.push_back(cuda::stage_to_host(x.view(), on(caller)));
  EXPECT_LE(sim().calls("host_register"), 2u);
  for (const Loan& each : held) EXPECT_EQ(elements(each), elements_with(x, 1));
}

}  // namespace
}  // namespace dlbridge::test
