// SPDX-License-Identifier: Apache-2.0
// The simulator: drivers, devices, contexts, dead devices, faults.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "cuda_sim/sim_kit.h"

namespace dlbridge::cuda_sim {
namespace {

struct DriverCase {
  Driver driver;
  CUresult answer;
  int version;
};

class SimDriver : public ::testing::TestWithParam<DriverCase> {};

TEST_P(SimDriver, SaysWhatIsMissing) {
  const Simulator sim({.driver = GetParam().driver});
  int count = -1;
  int version = -1;
  const bool present = GetParam().driver == Driver::present;
  EXPECT_EQ(sim.api().init(0), GetParam().answer);
  EXPECT_EQ(sim.api().get_device_count(&count),
            present ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(count, present ? 2 : 0);
  EXPECT_CUDA(sim.api().driver_get_version(&version));
  EXPECT_EQ(version, GetParam().version);
  EXPECT_TRUE(sim.reports().empty());
}

INSTANTIATE_TEST_SUITE_P(
    Sim, SimDriver,
    ::testing::Values(DriverCase{Driver::present, CUDA_SUCCESS, 13000},
                      DriverCase{Driver::absent, CUDA_ERROR_NOT_INITIALIZED, 0},
                      DriverCase{Driver::too_old, CUDA_SUCCESS, 11040},
                      DriverCase{Driver::no_device, CUDA_ERROR_NO_DEVICE, 13000}));

TEST(SimContexts, SomeCallsNeedOne) {
  World world;
  const CUevent event = world.event();
  std::thread([&] {
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    int value;
    EXPECT_CUDA(world.api.device_get_attribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 1));
    EXPECT_CUDA(world.query(event));
    EXPECT_CUDA(world.api.event_synchronize(event));
    EXPECT_NO_REPORTS(world);  // those do not
    EXPECT_REFUSED(world, world.api.thread_exchange_stream_capture_mode(&mode),
                   CUDA_ERROR_INVALID_CONTEXT, ReportKind::wrong_context);
    EXPECT_TRUE(world.sim.context_stack().empty());
  }).join();
}

TEST(SimContexts, PushAndPopMakeNone) {
  World world;
  std::thread([&] { EXPECT_TRUE(world.sim.context_stack().empty()); }).join();
  world.sim.use_no_device();
  CUcontext context = world.sim.make_context(1);
  EXPECT_EQ(world.api.ctx_push_current(context), CUDA_SUCCESS);
  EXPECT_EQ(world.sim.context_stack(), std::vector<int>{1});
  world.event();
  CUcontext popped = nullptr;
  EXPECT_EQ(world.api.ctx_pop_current(&popped), CUDA_SUCCESS);
  EXPECT_EQ(popped, context);
  EXPECT_TRUE(world.sim.context_stack().empty());
  EXPECT_NO_REPORTS(world);
  EXPECT_REFUSED(world, world.api.ctx_pop_current(&popped), CUDA_ERROR_INVALID_CONTEXT,
                 ReportKind::wrong_context);
}

TEST(SimContexts, DeviceCountIsConfigured) {
  Simulator sim({.devices = 1});
  int count = 0;
  EXPECT_CUDA(sim.api().get_device_count(&count));
  EXPECT_EQ(count, 1);
  EXPECT_FALSE(sim.context_active(0));
  EXPECT_THROW(sim.device_alloc(1, 1), std::out_of_range);
  int value = 0;
  EXPECT_EQ(sim.api().device_get_attribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 1),
            CUDA_ERROR_INVALID_DEVICE);
  EXPECT_CUDA(sim.api().device_get_attribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0));
  EXPECT_EQ(value, 32);
  sim.set_attribute(CU_DEVICE_ATTRIBUTE_WARP_SIZE, 64);
  EXPECT_CUDA(sim.api().device_get_attribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0));
  EXPECT_EQ(value, 64);
}

TEST(SimContexts, RetainAndReleaseAreCounted) {
  World world;
  for (const int device : {0, 1}) {
    unsigned flags;
    int active = -1;
    EXPECT_EQ(world.api.device_primary_ctx_get_state(device, &flags, &active), CUDA_SUCCESS);
    EXPECT_EQ(active, device) << "the first starts without";
  }
  CUcontext context = nullptr;
  EXPECT_EQ(world.api.device_primary_ctx_retain(&context, 1), CUDA_SUCCESS);
  EXPECT_EQ(world.sim.leaks().retained_contexts, 1u);
  EXPECT_EQ(world.api.device_primary_ctx_release(1), CUDA_SUCCESS);
  EXPECT_TRUE(world.sim.context_active(1));  // the runtime holds it
  EXPECT_NO_REPORTS(world);
  EXPECT_REFUSED(world, world.api.device_primary_ctx_release(1), CUDA_ERROR_INVALID_CONTEXT,
                 ReportKind::bad_argument);
  EXPECT_REFUSED(world, world.api.device_primary_ctx_retain(&context, 0), CUDA_SUCCESS,
                 ReportKind::context_created);
  EXPECT_EQ(world.api.ctx_push_current(context), CUDA_SUCCESS);
  CUevent event = world.event();
  CUcontext popped;
  world.api.ctx_pop_current(&popped);
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
  CUcontext context = nullptr;
  EXPECT_EQ(world.api.stream_get_ctx(here, &context), CUDA_SUCCESS);
  EXPECT_EQ(context, world.sim.make_context(1));
  EXPECT_EQ(world.api.stream_get_ctx(CU_STREAM_LEGACY, &context), CUDA_SUCCESS);
  EXPECT_EQ(context, world.sim.make_context(0));
  CUdevice device = -1;
  EXPECT_EQ(world.api.ctx_get_device(&device), CUDA_SUCCESS);
  EXPECT_EQ(device, 0);
}

// A context of the program's own has streams 1 and 2 of its own.
TEST(SimContexts, UserContextsHaveTheirOwnStreams) {
  World world;
  void* memory = world.sim.device_alloc(64);
  const CUcontext own = world.sim.use_user_context(1);
  world.sim.enqueue_write(CU_STREAM_LEGACY, memory, Bytes(64));
  const CUstream blocking = world.sim.make_stream_in(own, CU_STREAM_DEFAULT);
  world.sim.enqueue_write(blocking, memory, Bytes(64));
  EXPECT_NO_REPORTS(world);
  CUcontext context = nullptr;
  EXPECT_EQ(world.api.stream_get_ctx(blocking, &context), CUDA_SUCCESS);
  EXPECT_EQ(context, own);
  CUdevice device = -1;
  EXPECT_EQ(world.api.ctx_get_device(&device), CUDA_SUCCESS);
  EXPECT_EQ(device, 1);
  world.sim.use_device(1);
  EXPECT_REFUSED(world, world.api.event_record(world.event(), blocking), CUDA_ERROR_INVALID_HANDLE,
                 ReportKind::wrong_context);
  world.sim.enqueue_write(CU_STREAM_LEGACY, memory, Bytes(64));
  EXPECT_ONLY(world, ReportKind::race);
}

TEST(SimContexts, GreenOnesHaveOneThread) {
  World world({.active = {}});
  const CUcontext green = world.sim.make_green_context(1);
  EXPECT_TRUE(world.sim.context_active(1)) << "it retains the primary one";
  EXPECT_THROW(world.sim.make_stream_in(green, CU_STREAM_DEFAULT), std::invalid_argument);
  CUcontext context = nullptr;
  EXPECT_EQ(
      world.api.stream_get_ctx(world.sim.make_stream_in(green, CU_STREAM_NON_BLOCKING), &context),
      CUDA_SUCCESS);
  EXPECT_EQ(context, green);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(world.api.ctx_push_current(green), CUDA_SUCCESS);
  EXPECT_NO_REPORTS(world);
  std::thread([&] { world.api.ctx_push_current(green); }).join();
  EXPECT_ONLY(world, ReportKind::wrong_context);
}

TEST(SimFailure, DeadDeviceFailsEverything) {
  World world;
  const CUstream stream = world.stream();
  const CUevent event = world.event();
  void* memory = world.sim.device_alloc(64);
  PinnedBytes host(world.api, 64);
  world.sim.hold();
  world.copy(host.data(), memory, 64, stream);
  ASSERT_CUDA(world.api.event_record(event, stream));
  std::thread waiter(
      [&] { EXPECT_EQ(world.api.event_synchronize(event), CUDA_ERROR_ILLEGAL_ADDRESS); });
  ASSERT_TRUE(world.sim.wait_until_blocked(1));
  world.sim.kill_device(1, CUDA_ERROR_ILLEGAL_ADDRESS);
  waiter.join();
  world.sim.go();
  EXPECT_EQ(world.query(event), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(world.api.stream_synchronize(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(world.api.memcpy_async(host.data(), memory, 64, stream), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(world.api.event_destroy(event), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(world.api.host_unregister(host.data()), CUDA_ERROR_ILLEGAL_ADDRESS);
  world.sim.use_device(0);
  world.event();  // the other device lives
  world.sim.use_device(1);
  EXPECT_NO_REPORTS(world);
}

TEST(SimFailure, KernelOrFaultKillsDevice) {
  for (const bool kernel : {false, true}) {
    World world(schedule(Schedule::lazy));
    const CUstream stream = world.stream();
    const CUstream other = world.stream();
    if (kernel) {
      world.sim.enqueue_fault(stream, CUDA_ERROR_LAUNCH_FAILED);
      EXPECT_CUDA(world.api.stream_synchronize(other));
    } else {
      world.sim.fail({"stream_synchronize", 1, CUDA_ERROR_LAUNCH_FAILED, true});
    }
    EXPECT_EQ(world.api.stream_synchronize(stream), CUDA_ERROR_LAUNCH_FAILED);
    EXPECT_EQ(world.api.stream_synchronize(other), CUDA_ERROR_LAUNCH_FAILED);
  }
}

TEST(SimFailure, ResetLosesEverything) {
  World world;
  unsigned long long first = 0;
  unsigned long long second = 0;
  const CUcontext context = world.sim.make_context(1);
  EXPECT_EQ(world.api.ctx_get_id(context, &first), CUDA_SUCCESS);
  const CUevent event = world.event();
  const CUstream stream = world.stream();
  void* memory = world.sim.device_alloc(64);
  world.sim.hold();
  world.sim.enqueue_write(stream, memory, Bytes(64));
  ASSERT_CUDA(world.api.event_record(event, stream));
  std::thread waiter(
      [&] { EXPECT_EQ(world.api.event_synchronize(event), CUDA_ERROR_CONTEXT_IS_DESTROYED); });
  ASSERT_TRUE(world.sim.wait_until_blocked(1));
  world.sim.reset_device(1);
  waiter.join();
  world.sim.go();
  EXPECT_FALSE(world.sim.context_active(1));
  EXPECT_EQ(world.query(event), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  EXPECT_EQ(world.api.ctx_get_id(context, &second), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  EXPECT_TRUE(world.sim.leaks().none());
  EXPECT_EQ(world.sim.make_context(1), context);
  EXPECT_EQ(world.api.ctx_get_id(context, &second), CUDA_SUCCESS);
  EXPECT_NE(first, second);
  EXPECT_NO_REPORTS(world);
}

TEST(SimFailure, NthCallFails) {
  World world;
  const CUstream stream = world.stream();
  world.sim.fail({"event_create_with_flags", 2, CUDA_ERROR_OUT_OF_MEMORY, false});
  CUevent first = nullptr;
  CUevent second = nullptr;
  EXPECT_CUDA(world.api.event_create_with_flags(&first, 0));
  EXPECT_EQ(world.sim.faults_struck(), 0);
  EXPECT_EQ(world.api.event_create_with_flags(&second, 0), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(second, nullptr);
  EXPECT_EQ(world.sim.faults_struck(), 1);
  EXPECT_EQ(world.sim.leaks().events, 1u);
  EXPECT_CUDA(world.api.event_create_with_flags(&second, 0));
  world.sim.fail({"", 3, CUDA_ERROR_UNKNOWN, false});
  EXPECT_CUDA(world.api.event_record(first, stream));
  CUcontext current;
  EXPECT_EQ(world.api.ctx_get_current(&current), CUDA_SUCCESS);
  EXPECT_EQ(world.api.ctx_push_current(current), CUDA_ERROR_UNKNOWN);
  EXPECT_EQ(world.sim.context_stack(), std::vector<int>{1});
  EXPECT_EQ(world.sim.calls("event_create_with_flags"), 3u);
  EXPECT_EQ(world.sim.total_calls(), 6u);
}

// ---- Host functions

TEST(SimHostFunctions, RunInStreamOrder) {
  CopyWorld world(64);
  Bytes seen;
  world.sim.enqueue_write(world.copies, world.memory, pattern(64, 1));
  world.sim.enqueue_host_function(world.copies, [&] { seen = world.read(world.memory, 64); });
  world.sim.enqueue_write(world.copies, world.memory, pattern(64, 2));
  EXPECT_CUDA(world.api.stream_synchronize(world.copies));
  EXPECT_EQ(seen, pattern(64, 1));
  EXPECT_NO_REPORTS(world);
}

TEST(SimHostFunctions, MayNotCall) {
  World world;
  const CUstream stream = world.stream();
  const CUevent event = world.event();
  CUresult answers[2] = {};
  world.sim.enqueue_host_function(stream, [&] {
    answers[0] = world.api.event_record(event, stream);
    answers[1] = world.query(event);
  });
  world.sim.synchronize(stream);
  for (const CUresult answer : answers) EXPECT_EQ(answer, CUDA_ERROR_NOT_PERMITTED);
  EXPECT_ONLY(world, ReportKind::driver_locked);
}

// The call waits for the function, which waits for the mutex in one of two cases.
TEST(SimHostFunctions, BlockCallsAndMayDeadlock) {
  for (const bool deadlock : {false, true}) {
    World world;
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

// ---- Forks

int status_of_child(const std::function<void()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(5);
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

// A thread of the parent waits in a call: the child does not wait for it.
TEST(SimFork, ChildForgetsBlockedThreads) {
  World world;
  const CUevent event = world.event();
  const CUstream stream = world.stream();
  world.sim.hold();
  world.sim.enqueue_kernel(stream, {}, {});
  EXPECT_CUDA(world.api.event_record(event, stream));
  std::thread waiter([&] { EXPECT_CUDA(world.api.event_synchronize(event)); });
  EXPECT_TRUE(world.sim.wait_until_blocked(1));
  wait_for_other_threads();
  EXPECT_EQ(status_of_child([&] {
              for (int i = 0; i < 10; ++i) static_cast<void>(world.query(event));
            }),
            0);
  world.sim.go();
  waiter.join();
}

// A thread that does not exist in the child may hold the simulator's mutex at the fork.
TEST(SimFork, ChildFindsTheMutexFree) {
  World world;
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop) static_cast<void>(world.sim.total_calls());
  });
  int failures = 0;
  for (int i = 0; i < 50 && failures == 0; ++i)
    failures += status_of_child([&] { static_cast<void>(world.sim.total_calls()); }) != 0;
  stop = true;
  busy.join();
  EXPECT_EQ(failures, 0);
}

TEST(SimLeaks, AreCountedByKind) {
  World world;
  CUstream stream = nullptr;
  ASSERT_CUDA(world.api.stream_create_with_flags(&stream, CU_STREAM_NON_BLOCKING));
  const CUevent event = world.event(CU_EVENT_BLOCKING_SYNC);
  EXPECT_EQ(world.sim.leaks().streams, 1u);
  EXPECT_EQ(world.sim.leaks().events, 1u);
  EXPECT_FALSE(world.sim.leaks().none());
  ASSERT_CUDA(world.api.stream_destroy(stream));
  ASSERT_CUDA(world.api.event_destroy(event));
  EXPECT_TRUE(world.sim.leaks().none()) << world.sim.leaks().text();
  EXPECT_EQ(world.sim.created_stream_flags(), std::vector<unsigned>{CU_STREAM_NON_BLOCKING});
  EXPECT_EQ(world.sim.created_event_flags(), std::vector<unsigned>{CU_EVENT_BLOCKING_SYNC});
  world.stream();  // a test's own is no leak
  EXPECT_TRUE(world.sim.leaks().none());
}

}  // namespace
}  // namespace dlbridge::cuda_sim
