// SPDX-License-Identifier: Apache-2.0
// The simulator: what comes after what, and what runs when.
#include <thread>

#include "cuda_sim/sim_kit.h"

namespace dlbridge::cuda_sim {
namespace {

constexpr size_t kCount = 64;

class SimStreams : public EverySchedule {};
FOR_EVERY_SCHEDULE(SimStreams);

// Of one thread and one device: 0 is the legacy stream, and each thread has a per-thread one.
TEST_P(SimStreams, DefaultOnesAreTheirOwners) {
  World world(config());
  void* memory = world.sim.device_alloc(kCount);
  const auto write_twice = [&](CUstream first, CUstream second) {
    world.sim.enqueue_write(first, memory, pattern(kCount, 1));
    world.sim.enqueue_write(second, memory, pattern(kCount, 2));
    EXPECT_NO_REPORTS(world);
    world.sim.synchronize(second);
  };
  write_twice(nullptr, CU_STREAM_LEGACY);
  write_twice(CU_STREAM_PER_THREAD, CU_STREAM_PER_THREAD);
  world.sim.enqueue_write(CU_STREAM_PER_THREAD, memory, pattern(kCount, 3));
  std::thread([&] {
    world.sim.use_device(1);
    world.sim.enqueue_write(CU_STREAM_PER_THREAD, memory, pattern(kCount, 4));
  }).join();
  EXPECT_ONLY(world, ReportKind::race);
  world.sim.finish();
  PinnedBytes host(world.api, kCount);
  world.sim.use_device(0);
  world.sim.enqueue_kernel(world.stream(CU_STREAM_DEFAULT, 0), {}, {{host.data(), kCount}});
  world.sim.use_device(1);
  world.sim.enqueue_kernel(CU_STREAM_LEGACY, {{host.data(), kCount}}, {{memory, kCount}});
  EXPECT_ONLY(world, ReportKind::race);
  world.sim.finish();
}

TEST_P(SimStreams, UnrecordedEventOrdersNothing) {
  World world(config());
  void* memory = world.sim.device_alloc(kCount);
  const CUstream a = world.stream();
  const CUstream b = world.stream();
  const CUevent event = world.event();
  EXPECT_CUDA(world.query(event));
  EXPECT_CUDA(world.api.event_synchronize(event));
  ASSERT_CUDA(world.api.stream_wait_event(b, event, 0));
  world.sim.enqueue_write(a, memory, pattern(kCount, 1));
  ASSERT_CUDA(world.api.event_record(event, a));
  world.sim.enqueue_read(b, memory, kCount);
  EXPECT_ONLY(world, ReportKind::race);
}

TEST_P(SimStreams, DestroyedOnesStillOrder) {
  World world(config());
  auto* memory = static_cast<char*>(world.sim.device_alloc(2 * kCount));
  CUstream a = nullptr;
  ASSERT_CUDA(world.api.stream_create_with_flags(&a, CU_STREAM_DEFAULT));
  const CUstream b = world.stream();
  world.sim.hold();
  world.sim.enqueue_write(a, memory, pattern(2 * kCount, 1));
  world.order(a, b);                         // destroys its event
  EXPECT_CUDA(world.api.stream_destroy(a));  // neither of the two blocks
  world.sim.enqueue_write(b, memory, pattern(kCount, 2));
  world.sim.enqueue_write(CU_STREAM_LEGACY, memory + kCount, pattern(kCount, 3));
  world.sim.go();
  for (const CUstream each : {b, CU_STREAM_LEGACY}) ASSERT_CUDA(world.api.stream_synchronize(each));
  EXPECT_EQ(world.read(memory, kCount), pattern(kCount, 2));
  EXPECT_EQ(world.read(memory + kCount, kCount), pattern(kCount, 3));
  EXPECT_NO_REPORTS(world);
}

TEST(SimSchedule, LazyRunsOnlyCauses) {
  World world(schedule(Schedule::lazy));
  void* memory = world.sim.device_alloc(3 * kCount);
  auto* bytes = static_cast<char*>(memory);
  const CUstream a = world.stream();
  const CUstream b = world.stream();
  const CUstream unrelated = world.stream();
  world.sim.enqueue_write(a, bytes, pattern(kCount, 1));
  world.order(a, b);
  world.sim.enqueue_write(a, bytes + kCount, pattern(kCount, 2));  // after what b waits for
  world.sim.enqueue_write(unrelated, bytes + 2 * kCount, pattern(kCount, 3));
  ASSERT_CUDA(world.api.stream_synchronize(b));
  EXPECT_EQ(world.read(bytes, kCount), pattern(kCount, 1));
  EXPECT_NE(world.read(bytes + kCount, kCount), pattern(kCount, 2));
  EXPECT_NE(world.read(bytes + 2 * kCount, kCount), pattern(kCount, 3));
  world.sim.finish();
  EXPECT_EQ(world.read(bytes + 2 * kCount, kCount), pattern(kCount, 3));
}

TEST(SimSchedule, EagerRunsAtOnce) {
  CopyWorld world(kCount);
  world.sim.enqueue_write(world.copies, world.memory, pattern(kCount, 1));
  EXPECT_EQ(world.read(world.memory, kCount), pattern(kCount, 1));
  EXPECT_EQ(world.sim.pending_operations(), 0u);
}

TEST(SimSchedule, RandomInterleavesDifferentlyBySeed) {
  std::set<std::vector<int>> orders;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    World world(schedule(Schedule::random, seed));
    void* memory = world.sim.device_alloc(kCount);
    std::vector<int> order;
    const CUstream streams[] = {world.stream(), world.stream(), world.stream()};
    for (int i = 0; i < 9; ++i) {
      world.sim.enqueue_kernel(streams[i % 3], {{memory, kCount}}, {},
                               [&order, i](const std::vector<void*>&) { order.push_back(i); });
    }
    world.sim.finish();
    ASSERT_EQ(order.size(), 9u);
    orders.insert(order);
  }
  EXPECT_GT(orders.size(), 5u);
}

TEST(SimSchedule, QueryMakesProgress) {
  std::set<int> seen;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    World world(schedule(Schedule::lazy, seed));
    void* memory = world.sim.device_alloc(kCount);
    const CUstream stream = world.stream();
    const CUevent event = world.event();
    world.sim.enqueue_write(stream, memory, pattern(kCount, 1));
    ASSERT_CUDA(world.api.event_record(event, stream));
    int refusals = 0;
    CUresult answer;
    while ((answer = world.query(event)) == CUDA_ERROR_NOT_READY) ++refusals;
    ASSERT_CUDA(answer);
    EXPECT_EQ(world.read(memory, kCount), pattern(kCount, 1));
    world.sim.host_wrote(memory, kCount);  // known to be over
    EXPECT_NO_REPORTS(world);
    seen.insert(refusals);
  }
  EXPECT_EQ(seen, (std::set<int>{0, 1, 2, 3}));
}

TEST_P(SimStreams, HoldBlocksUntilGo) {
  for (const bool spins : {false, true}) {
    World world(config());
    void* memory = world.sim.device_alloc(kCount);
    const CUstream stream = world.stream();
    const CUevent event = world.event(spins ? CU_EVENT_DISABLE_TIMING : CU_EVENT_BLOCKING_SYNC);
    world.sim.hold();
    world.sim.enqueue_write(stream, memory, pattern(kCount, 1));
    ASSERT_CUDA(world.api.event_record(event, stream));
    std::atomic<bool> over{false};
    std::thread waiter([&] {
      EXPECT_CUDA(world.api.event_synchronize(event));
      over = true;
    });
    ASSERT_TRUE(world.sim.wait_until_blocked(1));
    for (int i = 0; i < 10; ++i) EXPECT_EQ(world.query(event), CUDA_ERROR_NOT_READY);
    EXPECT_FALSE(over);
    EXPECT_EQ(world.read(memory, kCount), Bytes(kCount, 0xDB));
    world.sim.go();
    waiter.join();
    EXPECT_EQ(world.read(memory, kCount), pattern(kCount, 1));
    EXPECT_EQ(world.sim.spinning_waits(), spins ? 1u : 0u);
  }
}

TEST(SimSchedule, HeldStreamStopsNoOther) {
  World world;
  void* memory = world.sim.device_alloc(2 * kCount);
  auto* second = static_cast<char*>(memory) + kCount;
  const CUstream slow = world.stream();
  const CUstream quick = world.stream();
  world.sim.hold_stream(slow);
  world.sim.enqueue_write(slow, memory, pattern(kCount, 1));
  world.sim.enqueue_write(quick, second, pattern(kCount, 2));
  EXPECT_CUDA(world.api.stream_synchronize(quick));
  EXPECT_EQ(world.read(second, kCount), pattern(kCount, 2));
  world.order(slow, quick);
  std::thread waiter([&] {
    world.sim.use_device(1);
    EXPECT_CUDA(world.api.stream_synchronize(quick));
  });
  ASSERT_TRUE(world.sim.wait_until_blocked(1));
  world.sim.go_stream(slow);
  waiter.join();
  EXPECT_EQ(world.read(memory, kCount), pattern(kCount, 1));
}

TEST(SimSchedule, DestructionReleasesWhoIsBlocked) {
  std::thread waiter;
  {
    World world;
    world.sim.hold();
    const CUstream stream = world.stream();
    const CUevent event = world.event();
    world.sim.enqueue_kernel(stream, {}, {});
    ASSERT_CUDA(world.api.event_record(event, stream));
    const auto synchronize = world.api.event_synchronize;
    waiter = std::thread([=] { EXPECT_EQ(synchronize(event), CUDA_ERROR_DEINITIALIZED); });
    ASSERT_TRUE(world.sim.wait_until_blocked(1));
  }
  waiter.join();
}

TEST(SimSchedule, PoisonsTargetsEarly) {
  CopyWorld world(kCount, schedule(Schedule::lazy));
  world.sim.write(world.memory, pattern(kCount, 3));
  const CUstream producer = world.stream();
  world.sim.enqueue_kernel(producer, {}, {});
  world.order(producer, world.copies);
  world.copy(world.host.data(), world.memory, kCount, world.copies);
  EXPECT_EQ(world.host.copy(kCount), Bytes(kCount, 0xEE));  // it cannot have begun yet
  ASSERT_CUDA(world.api.stream_synchronize(producer));
  ASSERT_TRUE(world.sim.step());                            // the wait
  EXPECT_EQ(world.host.copy(kCount), Bytes(kCount, 0xDB));  // now it may have
  ASSERT_CUDA(world.api.stream_synchronize(world.copies));
  EXPECT_EQ(world.host.copy(kCount), pattern(kCount, 3));
}

// What a destroyed handle is good for: 709 of some calls, 400 of others, and to be another stream.
TEST(SimHandles, OfDestroyedStreamsAndEvents) {
  World world;
  CUstream gone = nullptr;
  ASSERT_CUDA(world.api.stream_create_with_flags(&gone, CU_STREAM_NON_BLOCKING));
  const CUevent event = world.event();
  ASSERT_CUDA(world.api.event_record(event, gone));
  ASSERT_CUDA(world.api.stream_destroy(gone));
  EXPECT_CUDA(world.api.event_synchronize(event));
  CUstreamCaptureStatus status;
  CUcontext context = nullptr;
  EXPECT_EQ(world.api.stream_is_capturing(gone, &status), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  EXPECT_EQ(world.api.stream_get_ctx(gone, &context), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_NO_REPORTS(world);  // questions
  const auto used = ReportKind::use_after_destroy;
  EXPECT_REFUSED(world, world.api.stream_synchronize(gone), CUDA_ERROR_CONTEXT_IS_DESTROYED, used);
  EXPECT_REFUSED(world, world.api.event_record(event, gone), CUDA_ERROR_CONTEXT_IS_DESTROYED, used);
  EXPECT_REFUSED(world, world.api.stream_wait_event(gone, event, 0), CUDA_ERROR_INVALID_HANDLE,
                 used);
  EXPECT_EQ(world.stream(), gone) << "handles are used again";
  EXPECT_CUDA(world.api.event_record(event, gone));
  EXPECT_CUDA(world.api.event_destroy(event));
  EXPECT_REFUSED(world, world.api.event_record(event, gone), CUDA_ERROR_CONTEXT_IS_DESTROYED, used);
  EXPECT_REFUSED(world, world.query(event), CUDA_ERROR_CONTEXT_IS_DESTROYED, used);
  EXPECT_EQ(world.event(), event);
  EXPECT_NO_REPORTS(world);
  for (const CUstream wrong : {reinterpret_cast<CUstream>(0x1234), CU_STREAM_LEGACY})
    EXPECT_REFUSED(world, world.api.stream_destroy(wrong), CUDA_ERROR_INVALID_HANDLE,
                   ReportKind::bad_argument);
}

// Streams of one connection run in the order of their calls, which orders nothing.
TEST(SimConnections, AreSharedInTurn) {
  World world({.connections = 2});
  void* memory = world.sim.device_alloc(3 * kCount);
  auto* at = static_cast<uint8_t*>(memory);
  const CUstream streams[] = {world.stream(), world.stream(), world.stream()};
  world.sim.hold_stream(streams[0]);
  for (size_t i = 0; i < 3; ++i) {
    world.sim.enqueue_write(streams[i], at + i * kCount, pattern(kCount, 1));
  }
  EXPECT_NE(world.read(at, kCount), pattern(kCount, 1));
  EXPECT_EQ(world.read(at + kCount, kCount), pattern(kCount, 1));
  EXPECT_NE(world.read(at + 2 * kCount, kCount), pattern(kCount, 1)) << "it waits for the first";
  world.sim.go_stream(streams[0]);
  EXPECT_EQ(world.read(at + 2 * kCount, kCount), pattern(kCount, 1));
  EXPECT_NO_REPORTS(world);
  world.sim.enqueue_write(streams[2], at, pattern(kCount, 2));
  EXPECT_ONLY(world, ReportKind::race);
}

// A driver lock, or running work: either way the call comes back later.
TEST(SimWaits, RegistrationAndCreationWaitForRunningWork) {
  CopyWorld world(kCount, {.waits_for_running = true});
  const CUstream busy = world.stream();
  world.sim.hold_stream(busy);
  world.sim.enqueue_write(busy, world.memory, pattern(kCount, 1));
  std::thread creating([&] {
    world.sim.use_device(1);
    CUstream made = nullptr;
    EXPECT_CUDA(world.api.stream_create_with_flags(&made, CU_STREAM_NON_BLOCKING));
    EXPECT_CUDA(world.api.stream_destroy(made));
  });
  EXPECT_TRUE(world.sim.wait_until_blocked(1));
  world.sim.go_stream(busy);
  creating.join();
}

}  // namespace
}  // namespace dlbridge::cuda_sim
