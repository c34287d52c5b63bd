// SPDX-License-Identifier: Apache-2.0
// The simulator: stream capture, codes 900 to 908.
#include <functional>

#include "cuda_sim/sim_kit.h"
#include "runtime/guards.h"

namespace dlbridge::cuda_sim {
namespace {

constexpr auto kGlobal = CU_STREAM_CAPTURE_MODE_GLOBAL;
constexpr auto kLocal = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
constexpr auto kRelaxed = CU_STREAM_CAPTURE_MODE_RELAXED;

TEST(SimCapture, ModesForbidUnsafeCalls) {
  const struct {
    CUstreamCaptureMode capture;
    CUstreamCaptureMode thread;
    bool own;  // the thread that captures asks
    bool forbidden;
  } cases[] = {{kGlobal, kGlobal, false, true},   {kGlobal, kLocal, false, false},
               {kGlobal, kRelaxed, false, false}, {kLocal, kGlobal, false, false},
               {kRelaxed, kGlobal, false, false}, {kGlobal, kGlobal, true, true},
               {kGlobal, kLocal, true, true},     {kGlobal, kRelaxed, true, false},
               {kLocal, kGlobal, true, true},     {kLocal, kLocal, true, true},
               {kRelaxed, kGlobal, true, false}};
  for (const auto& each : cases) {
    SCOPED_TRACE(&each - cases);
    World world;
    const CUstream captured = world.stream();
    const CUevent event = world.event();
    ASSERT_CUDA(world.sim.begin_capture(captured, each.capture));
    const auto ask = [&] {
      CUstreamCaptureMode mode = each.thread;
      EXPECT_CUDA(world.api.thread_exchange_stream_capture_mode(&mode));
      EXPECT_EQ(mode, kGlobal);  // a thread's first
      EXPECT_EQ(world.query(event), each.forbidden ? 900 : 0);
      EXPECT_CUDA(world.api.thread_exchange_stream_capture_mode(&mode));
      EXPECT_EQ(mode, each.thread);
    };
    if (each.own)
      ask();
    else
      world.thread(ask).join();
    EXPECT_EQ(world.status_of(captured), each.forbidden ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                                        : CU_STREAM_CAPTURE_STATUS_ACTIVE);
    EXPECT_EQ(world.sim.end_capture(captured), each.forbidden ? 901 : 0);
    EXPECT_ONLY_IF(each.forbidden, world, ReportKind::capture_broken);
  }
}

TEST(SimCapture, UnsafeCallsAreForbiddenAndOthersNot) {
  CopyWorld world(64);
  const CUstream captured = world.stream();
  const CUstream stream = world.copies;
  const CUevent event = world.event();
  alignas(4096) static char other[4096];
  void* memory = nullptr;
  ASSERT_CUDA(world.api.malloc_async(&memory, 64, stream));
  ASSERT_CUDA(world.sim.begin_capture(captured));
  world
      .thread([&] {
        world.copy(world.host.data(), world.memory, 64, stream);
        world.order(stream, world.stream());
        EXPECT_CUDA(cuda::attributes_of(world.api, memory).answer);
        EXPECT_EQ(world.status_of(captured), CU_STREAM_CAPTURE_STATUS_ACTIVE);
        EXPECT_NO_REPORTS(world);
        void* more = nullptr;
        EXPECT_EQ(world.query(event), 900);
        EXPECT_EQ(world.api.event_synchronize(event), 900);
        EXPECT_EQ(world.api.stream_synchronize(stream), 900);
        EXPECT_EQ(world.api.stream_query(stream), 900);
        EXPECT_EQ(world.api.host_register(other, 64, 0), 900);
        EXPECT_EQ(world.api.host_unregister(world.host.data()), 900);
        EXPECT_EQ(world.api.malloc_async(&more, 64, stream), 900);
        EXPECT_EQ(world.api.free_async(memory, stream), 900);
        EXPECT_EQ(world.api.preload_kernels(), 900);
      })
      .join();
  EXPECT_EQ(world.sim.reports_of(ReportKind::capture_broken), 9u);
  EXPECT_EQ(world.sim.end_capture(captured), 901);
  EXPECT_EQ(world.sim.leaks().registrations, 1u);
  EXPECT_CUDA(world.api.free_async(memory, stream));
}

TEST(SimCapture, RefusesHostWait) {
  World world;
  const CUstream captured = world.stream();
  const CUevent event = world.event();
  const std::pair<std::function<int()>, int> waits[] = {
      {[&] { return world.api.stream_synchronize(captured); }, 900},
      {[&] { return world.query(event); }, 907},
      {[&] { return world.api.event_synchronize(event); }, 907},
  };
  for (const auto& [wait, answer] : waits) {
    ASSERT_CUDA(world.sim.begin_capture(captured, kRelaxed));
    ASSERT_CUDA(world.api.event_record(event, captured));
    EXPECT_NO_REPORTS(world);
    CUstreamCaptureMode mode = kRelaxed;
    world.api.thread_exchange_stream_capture_mode(&mode);
    EXPECT_EQ(wait(), answer);
    world.api.thread_exchange_stream_capture_mode(&mode);
    EXPECT_EQ(world.api.memcpy_async(nullptr, nullptr, 0, captured), 901);
    EXPECT_REFUSED(world, world.sim.end_capture(captured), 901, ReportKind::capture_broken);
  }
}

TEST(SimCapture, BlocksTheLegacyStream) {
  for (const unsigned flags : {unsigned{CU_STREAM_DEFAULT}, unsigned{CU_STREAM_NON_BLOCKING}}) {
    const bool blocking = flags == CU_STREAM_DEFAULT;
    World world;
    const CUstream captured = world.stream(flags);
    const CUevent event = world.event();
    ASSERT_CUDA(world.sim.begin_capture(captured, kRelaxed));
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    EXPECT_EQ(world.api.stream_is_capturing(CU_STREAM_LEGACY, &status), blocking ? 906 : 0);
    EXPECT_EQ(world.status_of(captured), CU_STREAM_CAPTURE_STATUS_ACTIVE);  // asking breaks nothing
    EXPECT_NO_REPORTS(world);
    EXPECT_EQ(world.api.event_record(event, CU_STREAM_LEGACY), blocking ? 906 : 0);
    EXPECT_EQ(world.sim.end_capture(captured), blocking ? 901 : 0);
    EXPECT_ONLY_IF(blocking, world, ReportKind::capture_broken);
  }
}

TEST(SimCapture, JoinsStreamsThroughEvents) {
  for (const bool back : {false, true}) {
    World world;
    const CUstream origin = world.stream();
    const CUstream branch = world.stream();
    ASSERT_CUDA(world.sim.begin_capture(origin));
    world.order(origin, branch);
    EXPECT_EQ(world.status_of(branch), CU_STREAM_CAPTURE_STATUS_ACTIVE);
    world.sim.enqueue_kernel(branch, {}, {});
    if (back) world.order(branch, origin);
    EXPECT_EQ(world.sim.end_capture(origin), back ? 0 : 904);
    EXPECT_EQ(world.status_of(branch), CU_STREAM_CAPTURE_STATUS_NONE);
    EXPECT_NO_REPORTS(world);
  }
}

TEST(SimCapture, RefusesOrderAcrossItsBorder) {
  World world;
  const CUstream first = world.stream();
  const CUstream second = world.stream();
  const CUevent event = world.event();
  const auto expect_broken = [&](CUstream captured) {
    EXPECT_REFUSED(world, world.sim.end_capture(captured), 901, ReportKind::capture_broken);
  };
  ASSERT_CUDA(world.api.event_record(event, second));
  ASSERT_CUDA(world.sim.begin_capture(first));
  EXPECT_EQ(world.api.stream_wait_event(first, event, 0), 905);
  expect_broken(first);

  ASSERT_CUDA(world.sim.begin_capture(first));
  ASSERT_CUDA(world.sim.begin_capture(second));
  ASSERT_CUDA(world.api.event_record(event, first));
  EXPECT_EQ(world.api.stream_wait_event(second, event, 0), 902);
  EXPECT_EQ(world.sim.end_capture(first), 901);
  expect_broken(second);

  ASSERT_CUDA(world.sim.begin_capture(first));
  ASSERT_CUDA(world.api.event_record(event, first));
  EXPECT_EQ(world.api.stream_wait_event(CU_STREAM_LEGACY, event, 0), 906);
  expect_broken(first);
}

}  // namespace
}  // namespace dlbridge::cuda_sim
