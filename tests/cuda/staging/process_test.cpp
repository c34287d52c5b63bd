// SPDX-License-Identifier: Apache-2.0
// Processes: without a usable driver, forked, and at their end.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>

#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

constexpr int64_t kLarge = 100'000;

// ---- Without a usable driver

struct ReasonCase {
  cuda_sim::Driver driver;
  ErrorCode code;
  const char* says;
};

std::ostream& operator<<(std::ostream& out, const ReasonCase& each) {
  return out << name(each.code);
}

class WithoutCuda : public StagingTest, public testing::WithParamInterface<ReasonCase> {};

TEST_P(WithoutCuda, EveryCallSaysWhy) {
  start({.active = {}, .driver = GetParam().driver});
  const cuda::Availability found = cuda::availability();
  EXPECT_FALSE(found.usable);
  EXPECT_EQ(name(found.reason), name(GetParam().code));
  EXPECT_NE(found.message.find(GetParam().says), std::string::npos) << found.message;
  EXPECT_EQ(found.device_count, 0);
  TestTensor& source = host({{100}});
  TestTensor& not_there = host({{100}});
  TensorView x = not_there.view();
  x.device = Device(DeviceType::cuda, 0);
  Loan loan = not_there.acquire();
  loan.view().device = x.device;
  Loan other = source.acquire();
  const std::function<void()> calls[] = {
      [&] { static_cast<void>(cuda::stage_to_host(x, numbered(1, 0))); },
      [&] { cuda::stage(x, source.view(), numbered(1, 0)); },
      [&] { static_cast<void>(cuda::stage_to_host(std::span(&x, 1), numbered(1, 0))); },
      [&] { static_cast<void>(cuda::stage_to_host_async(std::move(loan), numbered(1, 0))); },
      [&] { cuda::stage(source.view(), x, numbered(1, 0)); },
      [&] {
        static_cast<void>(cuda::stage_async(std::move(other), std::move(loan), numbered(1, 0)));
      },
      [&] { static_cast<void>(cuda::pinned_empty(source.view())); },
      [&] { static_cast<void>(cuda::pinned_stats()); },
      [&] { cuda::set_pinned_limit(1); },
      [&] { static_cast<void>(cuda::record_stream(source.memory(), numbered(1, 0))); },
  };
  for (const auto& call : calls) {
    const std::optional<Error> error = error_of(call);
    ASSERT_TRUE(error);
    EXPECT_EQ(name(error->code()), name(GetParam().code));
    EXPECT_NE(std::string(error->what()).find(GetParam().says), std::string::npos);
  }
  EXPECT_TRUE(loan.owns_memory() && other.owns_memory());
  EXPECT_TRUE(cuda::drain(0));
}

INSTANTIATE_TEST_SUITE_P(
    All, WithoutCuda,
    testing::Values(
        ReasonCase{cuda_sim::Driver::absent, ErrorCode::no_driver, "no CUDA driver"},
        ReasonCase{cuda_sim::Driver::too_old, ErrorCode::driver_too_old,
                   "it knows CUDA 11.4, this library needs 12.0: install a newer driver"},
        ReasonCase{cuda_sim::Driver::no_device, ErrorCode::no_device, "CUDA_ERROR_NO_DEVICE"}),
    testing::PrintToStringParamName());

// ---- Forked

class Forked : public StagingTest {
 protected:
  // Runs `body` in a child and tells which of its claims failed; 0: none.
  template <typename Body>
  int in_child(Body&& body) {
    cuda_sim::wait_for_other_threads();  // AddressSanitizer's allocator has locks, too
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);
      _exit(body());
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
  }
};

TEST_F(Forked, ChildIsRefused) {
  TestTensor& x = device({{kLarge}});
  const CUstream caller = stream();
  static_cast<void>(cuda::stage_to_host(x.view(), on(caller)));
  EXPECT_EQ(in_child([&] {
              const auto error =
                  error_of([&] { static_cast<void>(cuda::stage_to_host(x.view(), on(caller))); });
              if (!error || error->code() != ErrorCode::after_fork) return 1;
              if (std::string(error->what()).find("spawn") == std::string::npos) return 2;
              if (!error_of([&] { static_cast<void>(cuda::pinned_stats()); })) return 3;
              if (!cuda::drain(0)) return 4;
              return 0;
            }),
            0);
}

TEST_F(Forked, ChildsDeletersCallNothing) {
  TestTensor& x = device({{kLarge}});
  TestTensor& small = device({{10}});
  const CUstream caller = stream();
  Loan result = cuda::stage_to_host(x.view(), on(caller));
  Loan tiny = cuda::stage_to_host(small.view(), on(caller));
  cuda::Future done = cuda::stage_to_host_async(x.acquire(), on(caller));
  EXPECT_TRUE(done.wait(10));
  EXPECT_TRUE(cuda::drain(10));
  sim().hold();
  cuda::Future pending = cuda::stage_to_host_async(x.acquire(), on(caller));
  ASSERT_TRUE(sim().wait_until_blocked(1));
  EXPECT_EQ(in_child([&] {
              const uint64_t before = sim().total_calls();
              if (elements(done.result()) != elements_with(x, 1)) return 1;
              const auto error = error_of([&] { static_cast<void>(pending.result()); });
              if (!error || error->code() != ErrorCode::after_fork) return 2;
              if (pending.wait(0.01) || pending.done()) return 3;
              result.reset();
              tiny.reset();
              done = {};
              pending = {};
              return sim().total_calls() == before ? 0 : 4;
            }),
            0);
  sim().go();
  EXPECT_EQ(elements(result), elements_with(x, 1)) << "the parent goes on";
  EXPECT_EQ(elements(pending.result()), elements_with(x, 1));
}

// ---- At their end

// Leaves without tidying up, with a copy in flight.
[[noreturn]] void exit_with_work(double seconds_until_it_goes_on) {
  auto* simulator = new cuda_sim::Simulator;
  cuda::inject_cuda_api(&simulator->api());
  auto* memory = simulator->device_alloc(kLarge * 4);
  Layout layout({kLarge});
  TestTensor x(layout, static_cast<uint8_t*>(memory), Device(DeviceType::cuda, 1));
  x.on_release = [] { std::fputs("released\n", stderr); };
  simulator->hold();
  static_cast<void>(cuda::stage_to_host_async(
      x.acquire(), cuda::stream_of(1, simulator->make_stream(CU_STREAM_NON_BLOCKING))));
  if (seconds_until_it_goes_on > 0) {
    std::thread([=] {
      std::this_thread::sleep_for(std::chrono::duration<double>(seconds_until_it_goes_on));
      simulator->go();
    }).detach();
  }
  std::exit(7);
}

TEST(ExitDeathTest, WaitsForWorkInFlight) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(exit_with_work(0.3), testing::ExitedWithCode(7), "released");
}

TEST(ExitDeathTest, WaitIsBounded) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(exit_with_work(0), testing::ExitedWithCode(7), "");
}

}  // namespace
}  // namespace dlbridge::test
