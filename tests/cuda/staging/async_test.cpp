// SPDX-License-Identifier: Apache-2.0
// Asynchronous staging: who holds what until when, what a Future tells, and who waits for whom.
#include <poll.h>

#include <filesystem>

#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

constexpr int64_t kSmall = 100;
constexpr int64_t kLarge = 100'000;  // floats: above the ring's smallest slot

bool is_readable(int descriptor) {
  pollfd polled{descriptor, POLLIN, 0};
  return poll(&polled, 1, 0) == 1;
}

// The devices stand still while this lives.
class Held {
 public:
  explicit Held(cuda_sim::Simulator& sim) : sim_(sim) { sim_.hold(); }
  ~Held() { go(); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  void go() { sim_.go(); }

 private:
  cuda_sim::Simulator& sim_;
};

// ---- Who holds what

class StagingAsync : public StagingTest, public testing::WithParamInterface<int64_t> {
 protected:
  int64_t size() const { return GetParam(); }
};

// Rule: 57
TEST_P(StagingAsync, HoldsSourceUntilDone) {
  for (const bool snapshot : {true, false}) {
    TestTensor& x = device({{size()}});
    free_on_release(x);
    Held held(sim());
    const cuda::Future future =
        cuda::stage_to_host_async(x.acquire(), on(stream()), {.snapshot = snapshot});
    EXPECT_EQ(x.releases(), 0);
    EXPECT_FALSE(future.done());
    held.go();
    EXPECT_TRUE(future.wait(10));
    EXPECT_EQ(x.releases(), 1);
    EXPECT_EQ(elements(future.result()), elements_with(x, 1));
  }
}

TEST_P(StagingAsync, DroppedFutureStillCompletes) {
  TestTensor& x = device({{size()}});
  TestTensor& y = device({{size()}}, 2);
  TestTensor& source = host({{size()}}, 3);
  TestTensor& target = device({{size()}});
  TestTensor& out = host({{size()}}, 4);
  free_on_release(x);
  free_on_release(target);
  Held held(sim());
  static_cast<void>(cuda::stage_to_host_async(x.acquire(), on(stream())));
  static_cast<void>(cuda::stage_async(y.acquire(), out.acquire(), on(stream())));
  static_cast<void>(cuda::stage_async(source.acquire(), target.acquire(), on(stream())));
  EXPECT_EQ(x.releases() + y.releases() + out.releases() + target.releases(), 0);
  held.go();
  EXPECT_TRUE(cuda::drain(10));
  for (const TestTensor* each : {&x, &y, &source, &target, &out}) EXPECT_EQ(each->releases(), 1);
  EXPECT_EQ(elements(out), elements_with(y, 2));
}

// The host repeats the elements, or the driver copies, after the call.
TEST_F(StagingTest, DroppedFutureKeepsPageableResults) {
  start({.pageable = cuda_sim::Pageable::deferred});
  cuda::set_pinned_limit(0);
  for (const Layout& layout : {Layout({100, 300}, {0, 1}), Layout({20'000})}) {
    TestTensor& x = device(layout);
    const CUstream producer = stream();
    sim().hold_stream(producer);
    static_cast<void>(cuda::stage_to_host_async(x.acquire(), on(producer)));
    // The memory of the result, if it is free: a result is aligned to 64 bytes.
    std::vector<std::vector<uint8_t>> others(50);
    for (std::vector<uint8_t>& other : others) other.assign(x.view().nbytes() + 63, 7);
    sim().go_stream(producer);
    EXPECT_TRUE(cuda::drain(10));
    for (const std::vector<uint8_t>& other : others)
      EXPECT_EQ(std::ranges::count(other, 7), x.nbytes() + 63);
  }
}

TEST_F(StagingTest, SumOfSizesMayNotOverflow) {
  TestTensor& x = device(Layout({1}));
  const test::Shaped repeated({int64_t{1} << 60}, {0});
  TensorView huge = repeated.view();
  huge.data = x.view().data;
  huge.device = x.view().device;
  const TensorView views[] = {huge, huge, huge, huge, x.view()};
  const std::optional<Error> error =
      error_of([&] { static_cast<void>(cuda::stage_to_host(views, on(stream()))); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), ErrorCode::out_of_memory);
}

TEST_F(StagingTest, ElementsWithoutAddressesAreRefusedFirst) {
  TestTensor& x = device(Layout({1000}));
  const test::Shaped nibbles({3, 5}, {1, 3}, DType(TypeCode::uint, 4));
  TensorView packed = nibbles.view();
  packed.data = x.view().data;
  packed.device = x.view().device;
  const TensorView views[] = {x.view(), packed};
  const std::optional<Error> error =
      error_of([&] { static_cast<void>(cuda::stage_to_host(views, on(stream()))); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), ErrorCode::packed_subbyte);
  EXPECT_EQ(sim().calls("memcpy_async"), 0u);
}

TEST_P(StagingAsync, PinnedSourceIsReadLater) {
  TestTensor& target = device({{size()}});
  TestTensor& source = foreign_pinned({{size()}}, 2);
  Held held(sim());
  const cuda::Future future = cuda::stage_async(source.acquire(), target.acquire(), on(stream()));
  EXPECT_EQ(source.releases(), 0);
  EXPECT_FALSE(future.done());
  held.go();
  EXPECT_TRUE(future.wait(10));
  EXPECT_EQ(source.releases(), 1);
  EXPECT_EQ(elements(target), elements_with(source, 2));
}

TEST_P(StagingAsync, BorrowedSourceIsReadLater) {
  TestTensor& target = device({{size()}});
  TestTensor& first = host({{size()}}, 2);
  TestTensor& source = host({{size()}}, 3);
  const CUstream consumer = stream();
  Held held(sim());
  // The copy stream's thread is busy with this one, so the next one waits for its turn.
  const cuda::Future before = cuda::stage_async(first.acquire(), target.acquire(), on(consumer));
  const cuda::Future future =
      cuda::stage_async(source.acquire(), target.acquire(), on(consumer), {.borrow = true});
  fill(source, 4);  // not allowed in earnest; here it shows that nothing was read yet
  EXPECT_EQ(source.releases(), 0);
  held.go();
  EXPECT_TRUE(future.wait(10));
  EXPECT_EQ(source.releases(), 1);
  EXPECT_EQ(elements(target), elements_with(source, 4));
  EXPECT_TRUE(before.done());
}

INSTANTIATE_TEST_SUITE_P(All, StagingAsync, testing::Values(kSmall, kLarge),
                         testing::PrintToStringParamName());

// ---- What a Future tells

class StagingFuture : public StagingTest {};

TEST_F(StagingFuture, ResultIsStable) {
  TestTensor& x = device({{kLarge}});
  Held held(sim());
  const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(stream()));
  std::vector<Loan> results(8);
  {
    std::vector<std::jthread> threads;
    for (Loan& result : results)
      threads.emplace_back([&result, future] { result = future.result(); });
    held.go();
  }
  for (const Loan& result : results) EXPECT_EQ(result.view().data, results[0].view().data);
  EXPECT_EQ(future.result().view().data, results[0].view().data);
  const cuda::PinnedStats stats = cuda::pinned_stats();
  EXPECT_GE(stats.owned, size_t{kLarge} * 4);
  results.clear();
  EXPECT_EQ(elements(future.result()), elements_with(x, 1)) << "the Future has a share of its own";
  EXPECT_EQ(future.size(), 1u);
  expect_error(ErrorCode::invalid_argument, [&] { future.result(1); });
  EXPECT_FALSE(cuda::Future());
}

TEST_F(StagingFuture, ErrorIsStable) {
  TestTensor& x = device({{kLarge}});
  Held held(sim());
  const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(stream()));
  pollfd polled{future.fd(), POLLIN, 0};
  ASSERT_TRUE(sim().wait_until_blocked(1));
  sim().kill_device(1, CUDA_ERROR_LAUNCH_FAILED);
  expect_losses();
  EXPECT_EQ(poll(&polled, 1, 10'000), 1);
  std::vector<std::optional<Error>> errors(8);
  {
    std::vector<std::jthread> threads;
    for (auto& error : errors)
      threads.emplace_back([&error, future] { error = error_of([&] { future.result(); }); });
  }
  for (const auto& error : errors) {
    ASSERT_TRUE(error);
    EXPECT_EQ(name(error->code()), "device_failed");
    EXPECT_STREQ(error->what(), errors[0]->what());
    EXPECT_NE(std::string(error->what()).find("CUDA_ERROR_LAUNCH_FAILED"), std::string::npos);
  }
  EXPECT_TRUE(future.done());
}

TEST_F(StagingFuture, FdIsReadableWhenDone) {
  TestTensor& x = device({{kLarge}});
  Held held(sim());
  const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(stream()));
  const int descriptor = future.fd();
  EXPECT_FALSE(is_readable(descriptor));
  EXPECT_EQ(future.fd(), descriptor);
  held.go();
  EXPECT_TRUE(future.wait(10));
  EXPECT_TRUE(is_readable(descriptor));
  EXPECT_TRUE(is_readable(descriptor)) << "it stays so";
  const cuda::Future other = cuda::stage_to_host_async(x.acquire(), on(stream()));
  EXPECT_TRUE(other.wait(10));
  EXPECT_TRUE(is_readable(other.fd())) << "it is asked for late";
}

// Many descriptors come and go: none is lost.
TEST_F(StagingFuture, DescriptorsAreClosed) {
  int first = -1;
  for (int i = 0; i < 50; ++i) {
    TestTensor& x = device({{kSmall}});
    const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(stream()));
    if (i == 0) first = future.fd();
    EXPECT_LE(future.fd(), first + 8);
    EXPECT_TRUE(future.wait(10));
    EXPECT_TRUE(cuda::drain(10));
  }
}

TEST_F(StagingFuture, SleepsWithoutPolling) {
  TestTensor& x = device({{kLarge}});
  Held held(sim());
  const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(stream()));
  ASSERT_TRUE(sim().wait_until_blocked(1)) << "a thread is to sleep in cuEventSynchronize";
  const uint64_t before = sim().total_calls();
  EXPECT_FALSE(future.wait(0.2));
  EXPECT_EQ(sim().total_calls(), before) << "nothing is called while nothing happens";
  EXPECT_EQ(sim().spinning_waits(), 0u);
  held.go();
  EXPECT_TRUE(future.wait(10));
}

// ---- Threads

class StagingThreads : public StagingTest {
 protected:
  static size_t threads() {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return static_cast<size_t>(std::distance(begin(tasks), end(tasks)));
  }
};

TEST_F(StagingThreads, StartOncePerProducer) {
  TestTensor& x = device({{kLarge}});
  const CUstream producer = stream();
  static_cast<void>(cuda::stage_to_host(x.view(), on(producer)));
  const size_t before = threads();  // that of the pinned pool included
  static_cast<void>(cuda::stage_to_host(x.view(), on(producer)));
  cuda::stage(host({{kSmall}}).view(), device({{kSmall}}).view(), on(producer));
  EXPECT_EQ(threads(), before) << "no asynchronous wait";
  for (int i = 0; i < 20; ++i)
    EXPECT_TRUE(cuda::stage_to_host_async(x.acquire(), on(producer)).wait(10));
  EXPECT_GT(threads(), before);
  EXPECT_LE(threads(), before + 1);
}

// ---- Slow producers

class SlowProducers : public StagingTest {};

TEST_F(SlowProducers, DelayNoOther) {
  start({.connections = 8});
  const CUstream slow = stream();
  TestTensor& late = device({{kLarge}});
  sim().hold_stream(slow);
  produce(slow, late, 2);
  const cuda::Future waiting = cuda::stage_to_host_async(late.acquire(), on(slow));
  for (int i = 0; i < 3; ++i) {
    const CUstream quick = stream();
    TestTensor& x = device({{kLarge}}, 3);
    EXPECT_EQ(elements(cuda::stage_to_host_async(x.acquire(), on(quick)).result()),
              elements_with(x, 3));
    EXPECT_EQ(elements(cuda::stage_to_host(x.view(), on(quick))), elements_with(x, 3));
    cuda::stage(host({{kLarge}}, 4).view(), x.view(), on(quick));
    sim().synchronize(quick);
    EXPECT_EQ(elements(x), elements_with(x, 4));
  }
  EXPECT_FALSE(waiting.done());
  sim().go_stream(slow);
  EXPECT_EQ(elements(waiting.result()), elements_with(late, 2));
}

// As far as the hardware allows: streams that share a connection delay each other.
TEST_F(SlowProducers, HaveWaitersOfTheirOwn) {
  std::vector<cuda::Future> waiting;
  std::vector<CUstream> slow;
  for (int i = 0; i < 7; ++i) {
    slow.push_back(stream());
    TestTensor& x = device({{kLarge}});
    sim().hold_stream(slow.back());
    produce(slow.back(), x, 2);
    waiting.push_back(cuda::stage_to_host_async(x.acquire(), on(slow.back())));
  }
  TestTensor& x = device({{kLarge}}, 3);
  EXPECT_TRUE(cuda::stage_to_host_async(x.acquire(), on(stream())).wait(10));
  for (const cuda::Future& each : waiting) EXPECT_FALSE(each.done());
  sim().go_stream(slow[3]);
  EXPECT_TRUE(waiting[3].wait(10));
  for (size_t i = 0; i < slow.size(); ++i) {
    EXPECT_EQ(waiting[i].done(), i == 3);
    sim().go_stream(slow[i]);
    EXPECT_TRUE(waiting[i].wait(10));
  }
}

// One waits for the other's data: on one copy stream for both neither would ever end.
TEST_F(SlowProducers, DoNotDeadlock) {
  const CUstream first = stream();
  const CUstream second = stream();
  TestTensor& x = device({{kLarge}});
  TestTensor& y = device({{kLarge}});
  sim().hold_stream(first);
  produce(first, x, 2);
  const cuda::Future from_first = cuda::stage_to_host_async(x.acquire(), on(first));
  produce(second, y, 3);
  const cuda::Future from_second = cuda::stage_to_host_async(y.acquire(), on(second));
  EXPECT_EQ(elements(from_second.result()), elements_with(y, 3));
  sim().go_stream(first);  // as if what it waited for were that result
  EXPECT_EQ(elements(from_first.result()), elements_with(x, 2));
}

TEST_F(SlowProducers, KeepTheirOwnOrder) {
  const CUstream slow = stream();
  TestTensor& x = device({{kLarge}});
  sim().hold_stream(slow);
  std::vector<cuda::Future> futures;
  for (uint32_t seed = 2; seed < 6; ++seed) {
    produce(slow, x, seed);
    futures.push_back(cuda::stage_to_host_async(x.acquire(), on(slow)));
  }
  sim().go_stream(slow);
  for (uint32_t i = 0; i < 4; ++i)
    EXPECT_EQ(elements(futures[i].result()), elements_with(x, i + 2));
}

// ---- Batches

class StagingBatch : public StagingTest {};

// Their bytes: tests/contract. Each batch has a block, which any of its results keeps.
TEST_F(StagingBatch, ResultsShareABlock) {
  TestTensor& x = device({{1000}}, 11);
  TestTensor& y = device({{20, 30}, {1, 20}}, 12);
  const TensorView views[] = {x.view(), y.view()};
  std::vector<Loan> results = cuda::stage_to_host(views, on(stream()));
  const size_t one = cuda::pinned_stats().owned;
  Loan loans[] = {x.acquire(), y.acquire()};
  cuda::Future future = cuda::stage_to_host_async(loans, on(stream()));
  EXPECT_TRUE(future.wait(10) && cuda::drain(10));
  for (const Loan& each : results)
    EXPECT_EQ(reinterpret_cast<uintptr_t>(each.view().data) % 64, 0u);
  EXPECT_EQ(cuda::pinned_stats().owned, 2 * one);
  results.resize(1);
  EXPECT_EQ(cuda::pinned_stats().owned, 2 * one);
  results.clear();
  EXPECT_EQ(cuda::pinned_stats().owned, one);
  future = {};
  EXPECT_EQ(cuda::pinned_stats().owned, 0u);
}

TEST_F(StagingBatch, SmallUsesProducersStream) {
  TestTensor& x = device({{kSmall}});
  TestTensor& y = device({{kSmall}}, 2);
  const CUstream producer = stream();
  const TensorView views[] = {x.view(), y.view()};
  const std::vector<Loan> results = cuda::stage_to_host(views, on(producer));
  EXPECT_EQ(elements(results[1]), elements_with(y, 2));
  EXPECT_EQ(sim().used_streams(), std::vector{producer});
  EXPECT_EQ(sim().calls("event_query"), 1u);
}

// ---- The limit of the pool

class StagingBeyondTheLimit : public StagingTest {};

// Without a block of its size the copy into pageable memory is over when the call returns: it could
// not keep the producer's next work out otherwise.
TEST_F(StagingBeyondTheLimit, PageableTargetCopiesAtOnce) {
  TestTensor& x = device({{2'000'000}});
  TestTensor& out = host({{2'000'000}});
  cuda::set_pinned_limit(size_t{4} << 20);
  const CUstream producer = stream();
  produce(producer, x, 2);
  const cuda::Future future = cuda::stage_async(x.acquire(), out.acquire(), on(producer));
  produce(producer, x, 3);
  EXPECT_TRUE(elements(future.result()) == elements_with(x, 2));
}

TEST_F(StagingBeyondTheLimit, ResultsOutliveTheEngine) {
  TestTensor& x = device({{kLarge}});
  const std::vector<uint8_t> expected = elements_with(x, 1);
  Loan result = cuda::stage_to_host(x.view(), on(stream()));
  Loan later = cuda::stage_to_host_async(x.acquire(), on(stream())).result();
  start();
  EXPECT_EQ(elements(result), expected);
  EXPECT_EQ(elements(later), expected);
}

}  // namespace
}  // namespace dlbridge::test
