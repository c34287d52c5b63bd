// SPDX-License-Identifier: Apache-2.0
// The simulator: stream capture, codes 900 to 908.
#include <functional>
#include <thread>

#include "cuda_sim/sim_kit.h"
#include "runtime/guards.h"

namespace dlbridge::cuda_sim {
namespace {

template <class F>
void on_another_thread(World& world, F&& body) {
  std::thread([&] {
    world.sim.use_device(1);
    body();
  }).join();
}

struct ModeCase {
  CUstreamCaptureMode capture;
  CUstreamCaptureMode thread;
  bool own;  // the thread that captures asks
  bool forbidden;
};

class SimCaptureModes : public ::testing::TestWithParam<ModeCase> {};

TEST_P(SimCaptureModes, ForbidUnsafeCalls) {
  const ModeCase& each = GetParam();
  World world;
  const CUstream captured = world.stream();
  const CUevent event = world.event();
  ASSERT_CUDA(world.sim.begin_capture(captured, each.capture));
  const auto ask = [&] {
    CUstreamCaptureMode mode = each.thread;
    ASSERT_CUDA(world.api.thread_exchange_stream_capture_mode(&mode));
    EXPECT_EQ(mode, CU_STREAM_CAPTURE_MODE_GLOBAL);  // a thread's first
    EXPECT_EQ(world.query(event),
              each.forbidden ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS);
    ASSERT_CUDA(world.api.thread_exchange_stream_capture_mode(&mode));
    EXPECT_EQ(mode, each.thread);
  };
  if (each.own) {
    ask();
  } else {
    on_another_thread(world, ask);
  }
  CUstreamCaptureStatus status;
  ASSERT_CUDA(world.api.stream_is_capturing(captured, &status));
  if (each.forbidden) {
    EXPECT_EQ(status, CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    EXPECT_REFUSED(world, world.sim.end_capture(captured), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
                   ReportKind::capture_broken);
  } else {
    EXPECT_EQ(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    EXPECT_CUDA(world.sim.end_capture(captured));
    EXPECT_NO_REPORTS(world);
  }
}

constexpr auto kGlobal = CU_STREAM_CAPTURE_MODE_GLOBAL;
constexpr auto kLocal = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
constexpr auto kRelaxed = CU_STREAM_CAPTURE_MODE_RELAXED;

INSTANTIATE_TEST_SUITE_P(Sim, SimCaptureModes,
                         ::testing::Values(ModeCase{kGlobal, kGlobal, false, true},
                                           ModeCase{kGlobal, kLocal, false, false},
                                           ModeCase{kGlobal, kRelaxed, false, false},
                                           ModeCase{kLocal, kGlobal, false, false},
                                           ModeCase{kRelaxed, kGlobal, false, false},
                                           ModeCase{kGlobal, kGlobal, true, true},
                                           ModeCase{kGlobal, kLocal, true, true},
                                           ModeCase{kGlobal, kRelaxed, true, false},
                                           ModeCase{kLocal, kGlobal, true, true},
                                           ModeCase{kLocal, kLocal, true, true},
                                           ModeCase{kRelaxed, kGlobal, true, false}));

TEST(SimCapture, EveryUnsafeCallIsForbidden) {
  World world;
  const CUstream captured = world.stream();
  const CUstream stream = world.stream();
  const CUevent event = world.event();
  PinnedBytes host(world.api, 64);
  alignas(4096) static char other[4096];
  void* memory = nullptr;
  ASSERT_CUDA(world.api.malloc_async(&memory, 64, stream));
  ASSERT_CUDA(world.sim.begin_capture(captured));
  on_another_thread(world, [&] {
    void* more = nullptr;
    EXPECT_EQ(world.query(event), 900);
    EXPECT_EQ(world.api.event_synchronize(event), 900);
    EXPECT_EQ(world.api.stream_synchronize(stream), 900);
    EXPECT_EQ(world.api.host_register(other, 64, 0), 900);
    EXPECT_EQ(world.api.host_unregister(host.data()), 900);
    EXPECT_EQ(world.api.malloc_async(&more, 64, stream), 900);
    EXPECT_EQ(world.api.free_async(memory, stream), 900);
    EXPECT_EQ(world.api.preload_kernels(), 900);
  });
  EXPECT_EQ(world.sim.reports_of(ReportKind::capture_broken), 8u);
  EXPECT_EQ(world.sim.end_capture(captured), 901);
  EXPECT_EQ(world.sim.leaks().registrations, 1u);
  EXPECT_CUDA(world.api.free_async(memory, stream));
}

TEST(SimCapture, SafeCallsAreNot) {
  World world;
  const CUstream captured = world.stream();
  const CUstream stream = world.stream();
  void* memory = world.sim.device_alloc(64);
  PinnedBytes host(world.api, 64);
  ASSERT_CUDA(world.sim.begin_capture(captured));
  on_another_thread(world, [&] {
    world.copy(host.data(), memory, 64, stream);
    world.order(stream, world.stream());
    cuda::PointerAttributes attributes;
    EXPECT_CUDA(cuda::read_attributes(world.api, memory, attributes));
  });
  EXPECT_CUDA(world.sim.end_capture(captured));
  world.sim.finish();
  EXPECT_NO_REPORTS(world);
}

TEST(SimCapture, RecordsOperations) {
  World world;
  const CUstream captured = world.stream();
  void* memory = world.sim.device_alloc(64);
  world.sim.write(memory, pattern(64, 1));
  ASSERT_CUDA(world.sim.begin_capture(captured));
  world.sim.enqueue_write(captured, memory, pattern(64, 2));
  EXPECT_CUDA(world.sim.end_capture(captured));
  EXPECT_EQ(world.sim.captured_operations(), 1u);
  world.sim.finish();
  EXPECT_EQ(world.read(memory, 64), pattern(64, 1));
  EXPECT_NO_REPORTS(world);
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
    EXPECT_CUDA(world.api.stream_is_capturing(captured, &status));
    EXPECT_EQ(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);  // asking breaks nothing
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
    CUstreamCaptureStatus status;
    ASSERT_CUDA(world.api.stream_is_capturing(branch, &status));
    EXPECT_EQ(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    world.sim.enqueue_kernel(branch, {}, {});
    if (back) world.order(branch, origin);
    EXPECT_EQ(world.sim.end_capture(origin), back ? 0 : 904);
    ASSERT_CUDA(world.api.stream_is_capturing(branch, &status));
    EXPECT_EQ(status, CU_STREAM_CAPTURE_STATUS_NONE);
    EXPECT_NO_REPORTS(world);
  }
}

TEST(SimCapture, RefusesOrderAcrossItsBorder) {
  World world;
  const CUstream first = world.stream();
  const CUstream second = world.stream();
  const CUstream outside = world.stream();
  const CUevent event = world.event();
  ASSERT_CUDA(world.api.event_record(event, outside));
  ASSERT_CUDA(world.sim.begin_capture(first));
  EXPECT_EQ(world.api.stream_wait_event(first, event, 0), 905);
  EXPECT_REFUSED(world, world.sim.end_capture(first), 901, ReportKind::capture_broken);

  ASSERT_CUDA(world.sim.begin_capture(first));
  ASSERT_CUDA(world.sim.begin_capture(second));
  ASSERT_CUDA(world.api.event_record(event, first));
  EXPECT_EQ(world.api.stream_wait_event(second, event, 0), 902);
  EXPECT_EQ(world.sim.end_capture(first), 901);
  EXPECT_REFUSED(world, world.sim.end_capture(second), 901, ReportKind::capture_broken);

  ASSERT_CUDA(world.sim.begin_capture(first));
  ASSERT_CUDA(world.api.event_record(event, first));
  EXPECT_EQ(world.api.stream_wait_event(CU_STREAM_LEGACY, event, 0), 906);
  EXPECT_REFUSED(world, world.sim.end_capture(first), 901, ReportKind::capture_broken);
}

TEST(SimCapture, EndsWhereItBegan) {
  World world;
  const CUstream origin = world.stream();
  const CUstream branch = world.stream();
  ASSERT_CUDA(world.sim.begin_capture(origin));
  on_another_thread(world, [&] { EXPECT_EQ(world.sim.end_capture(origin), 908); });
  EXPECT_REFUSED(world, world.sim.end_capture(origin), 901, ReportKind::capture_broken);
  ASSERT_CUDA(world.sim.begin_capture(origin));
  world.order(origin, branch);
  EXPECT_EQ(world.sim.end_capture(branch), 903);
  EXPECT_REFUSED(world, world.sim.end_capture(origin), 901, ReportKind::capture_broken);
  EXPECT_EQ(world.sim.begin_capture(CU_STREAM_LEGACY), 900);
  ASSERT_CUDA(world.sim.begin_capture(origin, kRelaxed));
  EXPECT_EQ(world.sim.begin_capture(origin), CUDA_ERROR_ILLEGAL_STATE);
  on_another_thread(world, [&] { EXPECT_CUDA(world.sim.end_capture(origin)); });
  EXPECT_EQ(world.sim.end_capture(origin), CUDA_ERROR_ILLEGAL_STATE);
  EXPECT_NO_REPORTS(world);
}

}  // namespace
}  // namespace dlbridge::cuda_sim
