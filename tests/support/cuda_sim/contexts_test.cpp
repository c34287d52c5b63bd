// SPDX-License-Identifier: Apache-2.0
// The simulator: contexts, host functions, forks.
#include <sys/wait.h>
#include <unistd.h>

#include <mutex>
#include <stdexcept>

#include "cuda_sim/sim_kit.h"

namespace dlbridge::cuda_sim {
namespace {

constexpr size_t kCount = 64;

TEST(SimContexts, SomeCallsNeedOne) {
  World world;
  const CUcontext context = world.sim.make_context(1);
  const CUevent event = world.event();
  const auto expect_none = [&](CUresult answer) {
    EXPECT_REFUSED(world, answer, CUDA_ERROR_INVALID_CONTEXT, ReportKind::wrong_context);
  };
  std::thread([&] {
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    EXPECT_CUDA(world.query(event));
    EXPECT_CUDA(world.api.event_synchronize(event));
    EXPECT_NO_REPORTS(world);  // those do not
    expect_none(world.api.thread_exchange_stream_capture_mode(&mode));
    expect_none(world.api.ctx_pop_current(nullptr));
    EXPECT_TRUE(world.sim.context_stack().empty());
    EXPECT_CUDA(world.api.ctx_push_current(context));
    EXPECT_CUDA(world.api.thread_exchange_stream_capture_mode(&mode));
    EXPECT_EQ(world.sim.context_stack(), std::vector<int>{1});
  }).join();
}

TEST(SimContexts, RetainAndReleaseAreCounted) {
  World world;
  EXPECT_FALSE(world.sim.context_active(0));
  CUcontext context = nullptr;
  EXPECT_CUDA(world.api.device_primary_ctx_retain(&context, 1));
  EXPECT_EQ(world.sim.leaks().retained_contexts, 1u);
  EXPECT_CUDA(world.api.device_primary_ctx_release(1));
  EXPECT_TRUE(world.sim.context_active(1));  // the runtime holds it
  EXPECT_NO_REPORTS(world);
  EXPECT_REFUSED(world, world.api.device_primary_ctx_release(1), CUDA_ERROR_INVALID_CONTEXT,
                 ReportKind::bad_argument);
  EXPECT_REFUSED(world, world.api.device_primary_ctx_retain(&context, 0), CUDA_SUCCESS,
                 ReportKind::context_created);
  EXPECT_CUDA(world.api.ctx_push_current(context));
  const CUevent event = world.event();
  EXPECT_CUDA(world.api.ctx_pop_current(nullptr));
  EXPECT_REFUSED(world, world.api.device_primary_ctx_release(0), CUDA_SUCCESS,
                 ReportKind::context_destroyed);
  EXPECT_FALSE(world.sim.context_active(0));
  EXPECT_EQ(world.query(event), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  EXPECT_EQ(world.api.ctx_push_current(context), CUDA_ERROR_CONTEXT_IS_DESTROYED);
}

TEST(SimContexts, EventsBelongToOneDevice) {
  World world;
  const CUevent event = world.event();
  const CUstream here = world.stream(CU_STREAM_NON_BLOCKING, 1);
  const CUstream there = world.stream(CU_STREAM_NON_BLOCKING, 0);
  EXPECT_CUDA(world.api.event_record(event, here));
  EXPECT_CUDA(world.api.stream_wait_event(there, event, 0));  // which may be another's
  EXPECT_NO_REPORTS(world);
  EXPECT_REFUSED(world, world.api.event_record(event, there), CUDA_ERROR_INVALID_HANDLE,
                 ReportKind::wrong_context);
  world.sim.use_device(0);
  EXPECT_REFUSED(world, world.api.event_record(event, CU_STREAM_LEGACY), CUDA_ERROR_INVALID_HANDLE,
                 ReportKind::wrong_context);
  EXPECT_CUDA(world.api.event_record(event, here));  // a created stream knows its device
  EXPECT_NO_REPORTS(world);
  EXPECT_EQ(world.context_of(here), world.sim.make_context(1));
  EXPECT_EQ(world.context_of(CU_STREAM_LEGACY), world.sim.make_context(0));
}

// A context of the program's own has streams 1 and 2 of its own.
TEST(SimContexts, UserContextsHaveTheirOwnStreams) {
  World world;
  void* memory = world.alloc(kCount);
  const CUcontext own = world.sim.use_user_context(1);
  world.sim.enqueue_write(CU_STREAM_LEGACY, memory, Bytes(kCount));
  const CUstream blocking = world.sim.make_stream_in(own, CU_STREAM_DEFAULT);
  world.sim.enqueue_write(blocking, memory, Bytes(kCount));
  EXPECT_NO_REPORTS(world);
  EXPECT_EQ(world.context_of(blocking), own);
  CUdevice device = -1;
  EXPECT_CUDA(world.api.ctx_get_device(&device));
  EXPECT_EQ(device, 1);
  world.sim.use_device(1);
  EXPECT_REFUSED(world, world.api.event_record(world.event(), blocking), CUDA_ERROR_INVALID_HANDLE,
                 ReportKind::wrong_context);
  world.sim.enqueue_write(CU_STREAM_LEGACY, memory, Bytes(kCount));
  EXPECT_ONLY(world, ReportKind::race);
}

TEST(SimContexts, GreenOnesHaveOneThread) {
  World world({.active = {}});
  const CUcontext green = world.sim.make_green_context(1);
  EXPECT_TRUE(world.sim.context_active(1)) << "it retains the primary one";
  EXPECT_THROW(world.sim.make_stream_in(green, CU_STREAM_DEFAULT), std::invalid_argument);
  EXPECT_EQ(world.context_of(world.sim.make_stream_in(green, CU_STREAM_NON_BLOCKING)), green);
  for (int i = 0; i < 2; ++i) EXPECT_CUDA(world.api.ctx_push_current(green));
  EXPECT_NO_REPORTS(world);
  std::thread([&] { world.api.ctx_push_current(green); }).join();
  EXPECT_ONLY(world, ReportKind::wrong_context);
}

TEST(SimHostFunctions, RunInOrderAndMayNotCall) {
  CopyWorld world(kCount);
  const CUevent event = world.event();
  world.sim.enqueue_write(world.copies, world.memory, pattern(kCount, 1));
  world.sim.enqueue_host_function(world.copies, [&] {
    EXPECT_EQ(world.read(world.memory, kCount), pattern(kCount, 1));
    EXPECT_EQ(world.api.event_record(event, world.copies), CUDA_ERROR_NOT_PERMITTED);
    EXPECT_EQ(world.query(event), CUDA_ERROR_NOT_PERMITTED);
  });
  world.sim.enqueue_write(world.copies, world.memory, pattern(kCount, 2));
  EXPECT_CUDA(world.api.stream_synchronize(world.copies));
  EXPECT_EQ(world.read(world.memory, kCount), pattern(kCount, 2));
  EXPECT_ONLY(world, ReportKind::driver_locked);
}

// The call waits for the function, which waits for the mutex in one of two cases.
TEST(SimHostFunctions, BlockCallsAndMayDeadlock) {
  for (const bool deadlock : {false, true}) {
    World world({.patience = std::chrono::milliseconds(deadlock ? 100 : 10'000)});
    const CUstream stream = world.stream();
    std::mutex mutex;
    std::unique_lock held(mutex, std::defer_lock);
    if (deadlock) held.lock();
    std::atomic<bool> over{false};
    world.sim.enqueue_host_function(stream, [&] {
      EXPECT_TRUE(world.sim.wait_until_blocked(1));
      const std::lock_guard lock(mutex);
      over = true;
    });
    world.event();
    EXPECT_EQ(over, !deadlock);
    EXPECT_ONLY_IF(deadlock, world, ReportKind::driver_locked);
    if (deadlock) held.unlock();
    world.sim.synchronize(stream);
  }
}

// A child has none of its parent's threads, of which one waits in a call and one may hold the
// simulator's mutex.
TEST(SimFork, ChildWaitsForNoThread) {
  World world;
  const CUevent event = world.event();
  world.sim.hold();
  EXPECT_CUDA(world.api.event_record(event, CU_STREAM_LEGACY));
  std::thread waiter([&] { EXPECT_CUDA(world.api.event_synchronize(event)); });
  EXPECT_TRUE(world.sim.wait_until_blocked(1));
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop) static_cast<void>(world.sim.total_calls());
  });
  for (int i = 0; i < 50 && !testing::Test::HasFailure(); ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(5);
      _exit(world.query(event) == CUDA_ERROR_NOT_READY ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  stop = true;
  busy.join();
  world.sim.go();
  waiter.join();
}

}  // namespace
}  // namespace dlbridge::cuda_sim
