// SPDX-License-Identifier: Apache-2.0
// Failures: of every call of CUDA on every path, of the device for good, and for want of memory.
// The caller keeps or gets back what it gave, nothing runs on, and the next operation works.
#include <cctype>
#include <set>

#include "staging_paths.h"

namespace dlbridge::test {
namespace {

using cuda_sim::Fault;

// Every function that can fail, except those that free: after their failure no one can
// do anything about it.
const char* const kFunctions[] = {
    "get_device_count",
    "device_get_attribute",
    "pointer_get_attributes",
    "stream_create_with_flags",
    "stream_wait_event",
    "stream_synchronize",
    "stream_is_capturing",
    "stream_get_ctx",
    "event_create_with_flags",
    "event_record",
    "event_query",
    "event_synchronize",
    "memcpy_async",
    "memcpy_2d_async",
    "memcpy_3d_async",
    "malloc_async",
    "host_register",
    "ctx_get_current",
    "ctx_push_current",
    "device_primary_ctx_get_state",
    "device_primary_ctx_retain",
    "launch",
    "preload_kernels",
    "gather",
};

class FailureOnEveryPath : public StagingPathTest, public testing::WithParamInterface<StagingPath> {
 protected:
  Config lazy() const {
    Config config;
    config.schedule = Schedule::lazy;  // what is not waited for has not happened
    config.max_not_ready = 1;
    return config;
  }

  // The calls of each function that the path makes, in a process that has staged nothing before.
  std::vector<uint64_t> calls_of_path() {
    start(lazy());
    std::vector<uint64_t> counts;
    EXPECT_FALSE(walk(GetParam(), quiet()));
    EXPECT_TRUE(cuda::drain(10));
    for (const char* function : kFunctions) counts.push_back(sim().calls(function));
    return counts;
  }

  static Walk quiet() {
    Walk how;
    how.kernels = false;  // so that the host knows of nothing but what the module waited for
    return how;
  }
};

TEST_P(FailureOnEveryPath, EveryCallIsCleanedUp) {
  const std::vector<uint64_t> counts = calls_of_path();
  uint64_t series = 0;
  int struck = 0;
  int told = 0;
  for (size_t f = 0; f < std::size(kFunctions); ++f) {
    for (uint64_t nth = 1; nth <= counts[f]; ++nth) {
      if (series++ % kOneIn != 0) continue;
      SCOPED_TRACE(std::string(kFunctions[f]) + " fails at call " + std::to_string(nth));
      start(lazy());
      Walk how = quiet();
      how.before_call = [&] { sim().fail({kFunctions[f], nth, CUDA_ERROR_INVALID_VALUE}); };
      told += walk(GetParam(), how).has_value();
      EXPECT_TRUE(cuda::drain(10));
      struck += sim().faults_struck();
      sim().clear_faults();
      // An event that cannot be asked may stand behind a copy that still runs.
      if (std::string(kFunctions[f]) == "event_query" && cuda::pinned_stats().leaked > 0)
        expect_losses();
      else
        EXPECT_EQ(cuda::pinned_stats().leaked, 0u);
      EXPECT_FALSE(walk(GetParam(), quiet())) << "the next operation fails, too";
      EXPECT_TRUE(cuda::drain(10));
      if (HasFailure()) return;
    }
  }
  EXPECT_GT(struck, kOneIn == 1 ? 5 : 0);
  EXPECT_GT(told, kOneIn == 1 ? 5 : 0);
}

TEST_P(FailureOnEveryPath, OutOfMemoryIsReported) {
  for (const char* function : {"malloc_async", "host_register", "event_create_with_flags",
                               "stream_create_with_flags", "launch", "gather", "preload_kernels"}) {
    for (uint64_t nth = 1; nth <= 3; ++nth) {
      SCOPED_TRACE(std::string(function) + " fails at call " + std::to_string(nth));
      start(lazy());
      Walk how = quiet();
      how.before_call = [&] { sim().fail({function, nth, CUDA_ERROR_OUT_OF_MEMORY}); };
      const std::optional<Error> error = walk(GetParam(), how);
      if (error) {
        EXPECT_EQ(name(error->code()), "out_of_memory") << error->what();
      }
      EXPECT_TRUE(cuda::drain(10));
      sim().clear_faults();
      EXPECT_FALSE(walk(GetParam(), quiet()));
      if (HasFailure()) return;
    }
  }
}

// The device dies at the nth call.
TEST_P(FailureOnEveryPath, OtherDeviceGoesOn) {
  const std::vector<uint64_t> counts = calls_of_path();
  uint64_t series = 0;
  int died = 0;
  // A short path is walked as a whole, sampled or not: of so few calls one in some might never
  // fail.
  const uint64_t all = std::accumulate(counts.begin(), counts.end(), uint64_t{0});
  const uint64_t one_in = all < 100 * kOneIn ? 1 : kOneIn;
  for (size_t f = 0; f < std::size(kFunctions); ++f) {
    // The driver's own functions know of no dead device.
    const std::string function = kFunctions[f];
    if (function.starts_with("ctx_") || function.starts_with("device_")) continue;
    for (uint64_t nth = 1; nth <= counts[f]; nth += 2) {
      if (series++ % one_in != 0) continue;
      SCOPED_TRACE(function + " kills the device at call " + std::to_string(nth));
      start(lazy());
      use_device(1);
      expect_losses();
      TestTensor& other = device({{5000}}, 3, 0);
      const CUstream elsewhere = stream(0);
      Walk how = quiet();
      how.dies = true;
      how.before_call = [&] { sim().fail({function, nth, CUDA_ERROR_ILLEGAL_ADDRESS, true}); };
      static_cast<void>(walk(GetParam(), how));
      sim().clear_faults();
      if (sim().faults_struck() > 0) {
        ++died;
        TestTensor& x = device({{100}});
        expect_error(ErrorCode::device_failed,
                     [&] { static_cast<void>(cuda::stage_to_host(x.view(), on(stream()))); });
      }
      EXPECT_TRUE(cuda::drain(10));
      EXPECT_EQ(elements(cuda::stage_to_host(other.view(), on(elsewhere, 0))),
                elements_with(other, 3));
      if (HasFailure()) return;
    }
  }
  EXPECT_GT(died, one_in == 1 ? 5 : 0);
}

INSTANTIATE_TEST_SUITE_P(All, FailureOnEveryPath, testing::ValuesIn(staging_paths()),
                         testing::PrintToStringParamName());

// ---- A device that fails while work is in flight

class DeadDevice : public StagingTest {
 protected:
  static constexpr int64_t kLarge = 100'000;
};

TEST_F(DeadDevice, FailsAndLeaksInFlight) {
  expect_losses();
  TestTensor& early = device({{kLarge}}, 4);
  const Loan got = cuda::stage_to_host(early.view(), on(stream()));
  TestTensor& other = device({{kLarge}}, 3, 0);
  const Loan got_elsewhere = cuda::stage_to_host(other.view(), on(stream(0), 0));
  TestTensor& x = device({{kLarge}});
  sim().hold();
  const cuda::Future a = cuda::stage_to_host_async(x.acquire(), on(stream()));
  const cuda::Future b = cuda::stage_to_host_async(x.acquire(), on(stream()));
  ASSERT_TRUE(sim().wait_until_blocked(2));
  sim().kill_device(1, CUDA_ERROR_ECC_UNCORRECTABLE);
  for (const cuda::Future* each : {&a, &b}) {
    expect_error(ErrorCode::device_failed, [&] { static_cast<void>(each->result()); });
  }
  sim().go();
  EXPECT_EQ(x.releases(), 0) << "the device may still read it";
  EXPECT_GE(cuda::pinned_stats().leaked, 2 * size_t{kLarge} * 4);
  // What was there before stays readable, and the other device goes on.
  EXPECT_EQ(elements(got), elements_with(early, 4));
  EXPECT_EQ(elements(got_elsewhere), elements_with(other, 3));
  EXPECT_EQ(elements(cuda::stage_to_host(other.view(), on(stream(0), 0))), elements_with(other, 3));
  const auto next =
      error_of([&] { static_cast<void>(cuda::stage_to_host(x.view(), on(stream()))); });
  ASSERT_TRUE(next);
  EXPECT_EQ(name(next->code()), "device_failed");
  EXPECT_NE(std::string(next->what()).find("CUDA_ERROR_ECC_UNCORRECTABLE"), std::string::npos);
  EXPECT_TRUE(cuda::drain(10));
}

// A user may have handed it to copies on the device that is dead now.
TEST_F(DeadDevice, HeldResultsAreNotReused) {
  expect_losses();
  constexpr int64_t kHuge = 2'400'000;  // a segment of its own
  TestTensor& x = device({{kHuge}}, 2);
  TestTensor& other = device({{kHuge}}, 3, 0);
  Loan held = cuda::stage_to_host(x.view(), on(stream()));
  Loan held_elsewhere = cuda::stage_to_host(other.view(), on(stream(0), 0));
  Loan dropped = cuda::stage_to_host(other.view(), on(stream(0), 0));
  const std::set<const void*> before{held.view().data, held_elsewhere.view().data,
                                     dropped.view().data};
  dropped.reset();
  sim().kill_device(1, CUDA_ERROR_ECC_UNCORRECTABLE);
  expect_error(ErrorCode::device_failed,
               [&] { static_cast<void>(cuda::stage_to_host(x.view(), on(stream()))); });
  held.reset();
  held_elsewhere.reset();
  EXPECT_GE(cuda::pinned_stats().leaked, 3 * size_t{kHuge} * 4);
  const size_t leaked = cuda::pinned_stats().leaked;
  std::set<const void*> after;
  for (int i = 0; i < 5; ++i) {
    const Loan result = cuda::stage_to_host(other.view(), on(stream(0), 0));
    EXPECT_FALSE(before.contains(result.view().data));
    EXPECT_TRUE(elements(result) == elements_with(other, 3));
    after.insert(result.view().data);
  }
  EXPECT_LE(after.size(), 2u) << "what came later is used again";
  EXPECT_EQ(cuda::pinned_stats().leaked, leaked);
}

TEST_F(DeadDevice, IsNoticedByEveryWait) {
  for (const int64_t size : {int64_t{100}, kLarge}) {
    for (const bool to_host : {true, false}) {
      start();
      expect_losses();
      use_device(1);
      TestTensor& x = device({{size}});
      TestTensor& on_host = foreign_pinned({{size}}, 2);
      const CUstream caller = stream();
      produce(caller, x, 2);
      sim().hold_stream(caller);
      produce(caller, x, 3);
      std::optional<Error> error;
      std::thread waiting([&] {
        error = error_of([&] {
          if (to_host)
            cuda::stage(x.view(), on_host.view(), on(caller));
          else
            cuda::stage(on_host.view(), x.view(), on(caller));
        });
      });
      while (sim().calls("event_query") + sim().calls("event_synchronize") == 0)
        std::this_thread::yield();
      sim().kill_device(1, CUDA_ERROR_LAUNCH_FAILED);
      waiting.join();
      ASSERT_TRUE(error);
      EXPECT_EQ(name(error->code()), "device_failed");
    }
  }
}

// A polled event that answers an error is not one that is not ready yet.
TEST_F(DeadDevice, FailedQueryEndsWait) {
  TestTensor& x = device({{100}});
  sim().fail({"event_query", 1, CUDA_ERROR_INVALID_VALUE});
  expect_error(ErrorCode::device_failed,
               [&] { static_cast<void>(cuda::stage_to_host(x.view(), on(stream()))); });
  EXPECT_EQ(elements(cuda::stage_to_host(x.view(), on(stream()))), elements_with(x, 1));
}

// A kernel of the producer is at fault, not a call of ours.
TEST_F(DeadDevice, ProducersFaultIsReported) {
  expect_losses();
  TestTensor& x = device({{kLarge}});
  const CUstream producer = stream();
  sim().hold_stream(producer);
  sim().enqueue_fault(producer, CUDA_ERROR_ILLEGAL_ADDRESS);
  const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(producer));
  sim().go_stream(producer);
  const auto error = error_of([&] { static_cast<void>(future.result()); });
  ASSERT_TRUE(error);
  EXPECT_EQ(name(error->code()), "device_failed");
  EXPECT_NE(std::string(error->what()).find("CUDA_ERROR_ILLEGAL_ADDRESS"), std::string::npos);
}

TEST_F(DeadDevice, ResetIsReported) {
  expect_losses();
  TestTensor& x = device({{kLarge}});
  TestTensor& early = device({{kLarge}}, 4);
  const std::vector<uint8_t> expected = elements_with(early, 4);
  const Loan got = cuda::stage_to_host(early.view(), on(stream()));
  sim().hold();
  const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(stream()));
  ASSERT_TRUE(sim().wait_until_blocked(1));
  sim().reset_device(1);
  sim().go();
  expect_error(ErrorCode::device_failed, [&] { static_cast<void>(future.result()); });
  EXPECT_TRUE(cuda::drain(10));
  // The thread that was inside leaves a context that is no more, which makes it again.
  EXPECT_EQ(sim().reports_of(cuda_sim::ReportKind::context_created), sim().reports().size());
  sim().clear_reports();
  EXPECT_EQ(elements(got), expected) << "host memory outlives the device's context";
  TestTensor& again = device({{kLarge}});
  expect_error(ErrorCode::device_failed,
               [&] { static_cast<void>(cuda::stage_to_host(again.view(), on(stream()))); });
  // The engine ends with its threads: the one that was inside may leave only now.
  cuda::inject_cuda_api(&sim().api());
  sim().clear_reports();
}

// ---- A device that the kernels were not built for, or that has no memory pools

class NoKernels : public StagingTest {};

TEST_F(NoKernels, DeviceStillCopies) {
  for (const CUresult answer : {CUDA_ERROR_NO_BINARY_FOR_GPU, CUDA_ERROR_JIT_COMPILER_NOT_FOUND,
                                CUDA_ERROR_NOT_SUPPORTED}) {
    const bool pools = answer != CUDA_ERROR_NOT_SUPPORTED;
    start({.memory_pools = pools});
    if (pools) sim().fail({"preload_kernels", 1, answer});
    std::vector<TensorView> sources;
    for (uint32_t i = 0; i < 8; ++i) sources.push_back(device({{100}}, i).view());
    const auto results = cuda::stage_to_host(sources, on(stream()));
    for (size_t i = 0; i < 8; ++i)
      EXPECT_EQ(elements(results[i]), pattern(400, static_cast<uint32_t>(i)));
    TestTensor& strided = device({{100}, std::vector<int64_t>{2}});
    expect_error(ErrorCode::unsupported_device,
                 [&] { static_cast<void>(cuda::stage_to_host(strided.view(), on(stream()))); });
    EXPECT_EQ(sim().calls("gather") + sim().calls("launch"), 0u);
  }
}

// ---- Want of memory on the device

class FullDevice : public StagingTest {};

TEST_F(FullDevice, StridedUsesSmallerSlots) {
  for (const size_t room : {size_t{9} << 20, size_t{3} << 20}) {
    start({.device_memory_bytes = room});
    TestTensor& x = device({{3'000'000}, std::vector<int64_t>{2}});
    EXPECT_TRUE(elements(cuda::stage_to_host(x.view(), on(stream()))) == elements_with(x, 1));
    EXPECT_GT(sim().peak_async_bytes(), room / 8);
    EXPECT_LE(sim().peak_async_bytes(), room);
  }
}

TEST_F(FullDevice, NoRoomIsReported) {
  start({.device_memory_bytes = 1000});
  TestTensor& x = device({{3'000'000}, std::vector<int64_t>{2}});
  expect_error(ErrorCode::out_of_memory,
               [&] { static_cast<void>(cuda::stage_to_host(x.view(), on(stream()))); });
  TestTensor& flat = device({{1000}});
  EXPECT_EQ(elements(cuda::stage_to_host(flat.view(), on(stream()))), elements_with(flat, 1));
}

TEST_F(FullDevice, BatchIsGatheredInSlots) {
  for (const bool room : {true, false}) {
    start({.device_memory_bytes = room ? size_t{200} << 10 : 1000});
    std::vector<TensorView> sources;
    std::vector<TestTensor*> tensors;
    for (uint32_t i = 0; i < 8; ++i) {
      tensors.push_back(&device({{10'000}}, i));
      sources.push_back(tensors.back()->view());
    }
    const auto results = cuda::stage_to_host(sources, on(stream()));
    for (uint32_t i = 0; i < 8; ++i) EXPECT_EQ(elements(results[i]), elements_with(*tensors[i], i));
    EXPECT_EQ(sim().calls("gather"), room ? 8u : 0u);
    EXPECT_EQ(sim().calls("memcpy_async"), 8u);
  }
}

TEST_F(FullDevice, UnregistrableMemoryIsPageable) {
  start({.max_registered_bytes_total = size_t{3} << 20});
  TestTensor& x = device({{2'000'000}});
  EXPECT_TRUE(elements(cuda::stage_to_host(x.view(), on(stream()))) == elements_with(x, 1));
  EXPECT_GT(cuda::pinned_stats().register_failed, 0u);
  EXPECT_LE(cuda::pinned_stats().limit, size_t{3} << 20);
  const auto error =
      error_of([&] { static_cast<void>(cuda::pinned_empty(host({{2'000'000}}).view())); });
  ASSERT_TRUE(error);
  EXPECT_NE(std::string(error->what()).find("CUDA refused to register more"), std::string::npos)
      << error->what();
  TestTensor& small = device({{1000}});
  EXPECT_EQ(elements(cuda::stage_to_host(small.view(), on(stream()))), elements_with(small, 1));
}

}  // namespace
}  // namespace dlbridge::test
