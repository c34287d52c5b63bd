// SPDX-License-Identifier: Apache-2.0
// The simulator: what comes after what, and what runs when.
#include "cuda_sim/sim_kit.h"

namespace dlbridge::cuda_sim {
namespace {

constexpr size_t kCount = 64;

class SimStreams : public EverySchedule {};
FOR_EVERY_SCHEDULE(SimStreams);

// Of one thread and one device: 0 is the legacy stream, and each thread has a per-thread one.
TEST_P(SimStreams, DefaultOnesAreTheirOwners) {
  World world(config());
  void* memory = world.alloc(kCount);
  const auto write = [&](CUstream stream) {
    world.sim.enqueue_write(stream, memory, pattern(kCount, 1));
  };
  for (const CUstream each : {CUstream{nullptr}, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD})
    write(each);
  EXPECT_NO_REPORTS(world);
  world.thread([&] { write(CU_STREAM_PER_THREAD); }).join();
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

TEST_P(SimStreams, DestroyedOnesStillOrder) {
  World world(config());
  uint8_t* memory = world.alloc(2 * kCount);
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
  for (const CUstream each : {b, CU_STREAM_LEGACY}) EXPECT_CUDA(world.api.stream_synchronize(each));
  EXPECT_EQ(world.read(memory, kCount), pattern(kCount, 2));
  EXPECT_EQ(world.read(memory + kCount, kCount), pattern(kCount, 3));
  EXPECT_NO_REPORTS(world);
}

TEST(SimSchedule, DecidesWhatRuns) {
  for (const Schedule each : {Schedule::eager, Schedule::lazy}) {
    World world(schedule(each));
    uint8_t* memory = world.alloc(3 * kCount);
    const CUstream a = world.stream();
    const CUstream b = world.stream();
    world.sim.enqueue_write(a, memory, pattern(kCount, 1));
    world.order(a, b);
    world.sim.enqueue_write(a, memory + kCount, pattern(kCount, 1));  // after what b waits for
    world.sim.enqueue_write(world.stream(), memory + 2 * kCount, pattern(kCount, 1));
    const auto written = [&](size_t i) {
      return world.read(memory + i * kCount, kCount) == pattern(kCount, 1);
    };
    const bool eager = each == Schedule::eager;
    for (const size_t i : {0u, 1u, 2u}) EXPECT_EQ(written(i), eager);
    EXPECT_CUDA(world.api.stream_synchronize(b));
    for (const size_t i : {0u, 1u, 2u}) EXPECT_EQ(written(i), eager || i == 0);
    world.sim.finish();
    for (const size_t i : {0u, 1u, 2u}) EXPECT_TRUE(written(i));
    EXPECT_EQ(world.sim.pending_operations(), 0u);
  }
}

TEST(SimSchedule, RandomInterleavesDifferentlyBySeed) {
  std::set<std::vector<int>> orders;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    World world(schedule(Schedule::random, seed));
    std::vector<int> order;
    const CUstream streams[] = {world.stream(), world.stream(), world.stream()};
    for (int i = 0; i < 9; ++i)
      world.sim.enqueue_kernel(streams[i % 3], {}, {},
                               [&order, i](const std::vector<void*>&) { order.push_back(i); });
    world.sim.finish();
    EXPECT_EQ(order.size(), 9u);
    orders.insert(order);
  }
  EXPECT_GT(orders.size(), 5u);
}

TEST(SimSchedule, QueryMakesProgress) {
  std::set<int> seen;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    CopyWorld world(kCount, schedule(Schedule::lazy, seed));
    const CUevent event = world.event();
    world.sim.enqueue_write(world.copies, world.memory, pattern(kCount, 1));
    ASSERT_CUDA(world.api.event_record(event, world.copies));
    int refusals = 0;
    while (world.query(event) == CUDA_ERROR_NOT_READY) ++refusals;
    EXPECT_CUDA(world.query(event));
    EXPECT_EQ(world.read(world.memory, kCount), pattern(kCount, 1));
    world.sim.host_wrote(world.memory, kCount);  // known to be over
    EXPECT_NO_REPORTS(world);
    seen.insert(refusals);
  }
  EXPECT_EQ(seen, (std::set<int>{0, 1, 2, 3}));
}

TEST_P(SimStreams, HoldBlocksUntilGo) {
  for (const bool spins : {false, true}) {
    CopyWorld world(kCount, config());
    const CUevent event = world.event(spins ? CU_EVENT_DISABLE_TIMING : CU_EVENT_BLOCKING_SYNC);
    world.sim.hold();
    world.sim.enqueue_write(world.copies, world.memory, pattern(kCount, 1));
    EXPECT_CUDA(world.api.event_record(event, world.copies));
    std::thread waiter([&] { EXPECT_CUDA(world.api.event_synchronize(event)); });
    EXPECT_TRUE(world.sim.wait_until_blocked(1));
    for (int i = 0; i < 10; ++i) EXPECT_EQ(world.query(event), CUDA_ERROR_NOT_READY);
    EXPECT_EQ(world.read(world.memory, kCount), Bytes(kCount, kPoison));
    world.sim.go();
    waiter.join();
    EXPECT_EQ(world.read(world.memory, kCount), pattern(kCount, 1));
    EXPECT_EQ(world.sim.spinning_waits(), spins ? 1u : 0u);
  }
}

TEST(SimSchedule, DestructionReleasesWhoIsBlocked) {
  std::thread waiter;
  {
    World world;
    world.sim.hold();
    const CUevent event = world.event();
    EXPECT_CUDA(world.api.event_record(event, CU_STREAM_LEGACY));
    const auto synchronize = world.api.event_synchronize;
    waiter = std::thread([=] { EXPECT_EQ(synchronize(event), CUDA_ERROR_DEINITIALIZED); });
    EXPECT_TRUE(world.sim.wait_until_blocked(1));
  }
  waiter.join();
}

TEST(SimSchedule, PoisonsTargetsEarly) {
  CopyWorld world(kCount, schedule(Schedule::lazy));
  world.sim.write(world.memory, pattern(kCount, 3));
  const CUevent event = world.event();
  EXPECT_CUDA(world.api.event_record(event, world.copies));
  world.copy(world.host.data(), world.memory, kCount, world.copies);
  EXPECT_EQ(world.host.copy(kCount), Bytes(kCount, 0xEE));  // it cannot have begun yet
  EXPECT_CUDA(world.api.event_synchronize(event));
  EXPECT_EQ(world.host.copy(kCount), Bytes(kCount, kPoison));  // now it may have
  EXPECT_CUDA(world.api.stream_synchronize(world.copies));
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
  EXPECT_EQ(world.api.stream_is_capturing(gone, &status), 709);
  EXPECT_EQ(world.api.stream_get_ctx(gone, &context), 400);
  EXPECT_NO_REPORTS(world);  // questions
  const auto used = ReportKind::use_after_destroy;
  EXPECT_REFUSED(world, world.api.stream_synchronize(gone), 709, used);
  EXPECT_REFUSED(world, world.api.event_record(event, gone), 709, used);
  EXPECT_REFUSED(world, world.api.stream_wait_event(gone, event, 0), 400, used);
  EXPECT_EQ(world.stream(), gone) << "handles are used again";
  EXPECT_CUDA(world.api.event_record(event, gone));
  EXPECT_CUDA(world.api.event_destroy(event));
  EXPECT_REFUSED(world, world.api.event_record(event, gone), 709, used);
  EXPECT_REFUSED(world, world.query(event), 709, used);
  EXPECT_EQ(world.event(), event);
  EXPECT_EQ(world.sim.leaks().text(), "1 events ") << "the stream is a test's";
  EXPECT_NO_REPORTS(world);
  for (const CUstream wrong : {reinterpret_cast<CUstream>(0x1234), CU_STREAM_LEGACY})
    EXPECT_REFUSED(world, world.api.stream_destroy(wrong), 400, ReportKind::bad_argument);
}

// Streams of one connection run in the order of their calls, which orders nothing.
TEST(SimConnections, AreSharedInTurn) {
  World world({.connections = 2});
  uint8_t* memory = world.alloc(3 * kCount);
  const CUstream streams[] = {world.stream(), world.stream(), world.stream()};
  world.sim.hold_stream(streams[0]);
  for (size_t i = 0; i < 3; ++i)
    world.sim.enqueue_write(streams[i], memory + i * kCount, pattern(kCount, 1));
  EXPECT_NE(world.read(memory, kCount), pattern(kCount, 1));
  EXPECT_EQ(world.read(memory + kCount, kCount), pattern(kCount, 1));
  EXPECT_NE(world.read(memory + 2 * kCount, kCount), pattern(kCount, 1)) << "behind the first";
  world.sim.go_stream(streams[0]);
  EXPECT_EQ(world.read(memory + 2 * kCount, kCount), pattern(kCount, 1));
  EXPECT_NO_REPORTS(world);
  world.sim.enqueue_write(streams[2], memory, pattern(kCount, 2));
  EXPECT_ONLY(world, ReportKind::race);
}

// A driver lock, or running work: either way the call comes back later.
TEST(SimWaits, RegistrationAndCreationWaitForRunningWork) {
  for (const char* call : {"create", "register", "unregister"}) {
    CopyWorld world(kCount, {.waits_for_running = true});
    alignas(4096) static char pages[4096];
    const CUstream busy = world.stream();
    world.sim.hold_stream(busy);
    world.sim.enqueue_write(busy, world.memory, pattern(kCount, 1));
    std::thread calling = world.thread([&] {
      CUstream made = nullptr;
      EXPECT_CUDA(*call == 'c'   ? world.api.stream_create_with_flags(&made, CU_STREAM_NON_BLOCKING)
                  : *call == 'r' ? world.api.host_register(pages, 4096, 0)
                                 : world.api.host_unregister(world.host.data()));
    });
    EXPECT_TRUE(world.sim.wait_until_blocked(1)) << call;
    world.sim.go_stream(busy);
    calling.join();
  }
}

}  // namespace
}  // namespace dlbridge::cuda_sim
