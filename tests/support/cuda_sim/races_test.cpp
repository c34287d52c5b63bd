// SPDX-License-Identifier: Apache-2.0
// The simulator: each kind of mistake is reported, and its correct twin is not.
#include "cuda_sim/sim_kit.h"

namespace dlbridge::cuda_sim {
namespace {

constexpr size_t kCount = 256;

class SimRaces : public EverySchedule {};
FOR_EVERY_SCHEDULE(SimRaces);

TEST_P(SimRaces, UnorderedStreamsRace) {
  for (const bool ordered : {false, true}) {
    CopyWorld world(kCount, config());
    const cudaStream_t producer = world.stream();
    world.sim.enqueue_write(producer, world.memory, pattern(kCount, 1));
    if (ordered) world.order(producer, world.copies);
    world.copy(world.host.data(), world.memory, kCount, world.copies);
    EXPECT_ONLY_IF(!ordered, world, ReportKind::race);
    world.sim.finish();
  }
}

TEST_P(SimRaces, WriteAfterReadNeedsOrder) {
  for (const bool ordered : {false, true}) {
    CopyWorld world(kCount, config());
    const cudaStream_t producer = world.stream();
    world.copy(world.host.data(), world.memory, kCount, world.copies);
    if (ordered) world.order(world.copies, producer);
    world.sim.enqueue_write(producer, world.memory, pattern(kCount, 1));
    EXPECT_ONLY_IF(!ordered, world, ReportKind::race);
    world.sim.finish();
  }
}

TEST_P(SimRaces, TwoReadersAreNone) {
  World world(config());
  void* memory = world.sim.device_alloc(kCount);
  world.sim.enqueue_read(world.stream(), memory, kCount);
  world.sim.enqueue_read(world.stream(), memory, kCount);
  EXPECT_NO_REPORTS(world);
}

TEST_P(SimRaces, NeighbouringBytesAreNone) {
  World world(config());
  auto* memory = static_cast<char*>(world.sim.device_alloc(2 * kCount));
  world.sim.enqueue_write(world.stream(), memory, Bytes(kCount));
  world.sim.enqueue_write(world.stream(), memory + kCount, Bytes(kCount));
  EXPECT_NO_REPORTS(world);
  world.sim.enqueue_write(world.stream(), memory + kCount - 1, Bytes(1));
  EXPECT_ONLY(world, ReportKind::race);
}

TEST_P(SimRaces, OrderIsTransitive) {
  World world(config());
  void* memory = world.sim.device_alloc(kCount);
  const cudaStream_t a = world.stream();
  const cudaStream_t b = world.stream();
  const cudaStream_t c = world.stream();
  world.sim.enqueue_write(a, memory, Bytes(kCount));
  world.order(a, b);
  world.order(b, c);
  world.sim.enqueue_write(c, memory, Bytes(kCount));
  world.sim.synchronize(c);
  world.sim.enqueue_write(world.stream(), memory, Bytes(kCount));
  EXPECT_NO_REPORTS(world);
}

TEST_P(SimRaces, HostReadsBeforeWaiting) {
  for (const bool wait : {false, true}) {
    CopyWorld world(kCount, config());
    world.copy(world.host.data(), world.memory, kCount, world.copies);
    if (wait) {
      ASSERT_CUDA(world.api.stream_synchronize(world.copies));
    }
    world.sim.host_read(world.host.data() + kCount - 1, 1);
    EXPECT_ONLY_IF(!wait, world, ReportKind::race);
    world.sim.finish();
  }
}

TEST_P(SimRaces, HostWritesBeforeWaiting) {
  for (const bool wait : {false, true}) {
    CopyWorld world(kCount, config());
    world.copy(world.memory, world.host.data(), kCount, world.copies);
    world.sim.host_read(world.host.data(), kCount);  // reading what is read is nothing
    if (wait) {
      ASSERT_CUDA(world.api.stream_synchronize(world.copies));
    }
    world.sim.host_wrote(world.host.data(), 1);
    EXPECT_ONLY_IF(!wait, world, ReportKind::race);
    world.sim.finish();
  }
}

TEST(SimHost, WaitCoversOneStream) {
  CopyWorld world(kCount);
  world.copy(world.host.data(), world.memory, kCount, world.copies);
  world.sim.synchronize(world.stream());
  world.sim.host_read(world.host.data(), kCount);
  EXPECT_ONLY(world, ReportKind::race);
  world.sim.finish();
}

TEST(SimHost, ReportsChangedSource) {
  for (const bool wait : {false, true}) {
    for (const size_t changed : {size_t{0}, kCount / 2, kCount - 1}) {
      CopyWorld world(kCount, schedule(Schedule::lazy));
      world.copy(world.memory, world.host.data(), kCount, world.copies);
      if (wait) {
        ASSERT_CUDA(world.api.stream_synchronize(world.copies));
      }
      ++world.host.data()[changed];
      ASSERT_CUDA(world.api.stream_synchronize(world.copies));
      EXPECT_ONLY_IF(!wait, world, ReportKind::host_source_changed);
    }
  }
}

TEST(SimHost, IgnoresDeviceWrittenSource) {
  World world(schedule(Schedule::lazy));
  auto* memory = static_cast<char*>(world.sim.device_alloc(2 * kCount));
  PinnedBytes host(world.api, kCount);
  const cudaStream_t copies = world.stream();
  world.sim.enqueue_write(copies, memory, pattern(kCount, 1));
  world.copy(host.data(), memory, kCount, copies);
  world.copy(memory + kCount, host.data(), kCount, copies);
  world.copy(host.data(), memory, kCount, copies);  // nor does a later writer count
  ASSERT_CUDA(world.api.stream_synchronize(copies));
  EXPECT_EQ(world.read(memory + kCount, kCount), pattern(kCount, 1));
  EXPECT_NO_REPORTS(world);
}

TEST_P(SimRaces, DeviceMemoryFreedWhilePending) {
  for (const bool wait : {false, true}) {
    World world(config());
    void* memory = world.sim.device_alloc(kCount);
    const cudaStream_t copies = world.stream();
    world.sim.enqueue_write(copies, memory, Bytes(kCount));
    if (wait) world.sim.synchronize(copies);
    world.sim.device_free(memory);
    EXPECT_ONLY_IF(!wait, world, ReportKind::freed_while_pending);
    world.sim.finish();
  }
}

TEST_P(SimRaces, UnregisteredWhilePending) {
  for (const bool wait : {false, true}) {
    World world(config());
    void* memory = world.sim.device_alloc(kCount);
    const cudaStream_t copies = world.stream();
    {
      PinnedBytes host(world.api, kCount);
      world.copy(memory, host.data(), kCount, copies);
      if (wait) world.sim.synchronize(copies);
    }
    EXPECT_ONLY_IF(!wait, world, ReportKind::freed_while_pending);
    world.sim.finish();  // touches the memory that is gone no more
  }
}

TEST_P(SimRaces, UseAfterFree) {
  CopyWorld world(kCount, config());
  world.sim.device_free(world.memory);
  EXPECT_NO_REPORTS(world);
  EXPECT_REFUSED(world,
                 world.api.memcpy_async(world.host.data(), world.memory, kCount, cudaMemcpyDefault,
                                        world.stream()),
                 cudaErrorInvalidValue, ReportKind::use_after_destroy);
}

TEST_P(SimRaces, AllocationNeedsStreamOrder) {
  for (const bool ordered : {false, true}) {
    World world(config());
    const cudaStream_t a = world.stream();
    const cudaStream_t b = world.stream();
    void* memory = nullptr;
    ASSERT_CUDA(world.api.malloc_async(&memory, kCount, a));
    if (ordered) world.order(a, b);
    world.sim.enqueue_write(b, memory, Bytes(kCount));
    EXPECT_ONLY_IF(!ordered, world, ReportKind::race);
    if (ordered) world.order(b, a);
    ASSERT_CUDA(world.api.free_async(memory, a));
    EXPECT_ONLY_IF(!ordered, world, ReportKind::freed_while_pending);
    world.sim.enqueue_write(a, memory, Bytes(kCount));
    EXPECT_ONLY(world, ReportKind::use_after_destroy);
    EXPECT_REFUSED(world, world.api.free_async(memory, a), cudaErrorInvalidValue,
                   ReportKind::use_after_destroy);
    EXPECT_EQ(world.sim.leaks().async_allocations, 0u);
  }
}

TEST_P(SimRaces, DestroyedHandles) {
  World world(config());
  cudaStream_t stream = nullptr;
  ASSERT_CUDA(world.api.stream_create_with_flags(&stream, cudaStreamNonBlocking));
  const cudaEvent_t event = world.event();
  ASSERT_CUDA(world.api.event_record(event, stream));
  ASSERT_CUDA(world.api.stream_destroy(stream));
  EXPECT_CUDA(world.api.event_synchronize(event));
  ASSERT_CUDA(world.api.event_destroy(event));
  EXPECT_NO_REPORTS(world);
  EXPECT_REFUSED(world, world.api.stream_synchronize(stream), cudaErrorContextIsDestroyed,
                 ReportKind::use_after_destroy);
  EXPECT_REFUSED(world, world.query(event), cudaErrorContextIsDestroyed,
                 ReportKind::use_after_destroy);
  EXPECT_REFUSED(world, world.api.stream_synchronize(reinterpret_cast<cudaStream_t>(0x1234)),
                 cudaErrorInvalidResourceHandle, ReportKind::bad_argument);
  EXPECT_REFUSED(world, world.api.stream_destroy(cudaStreamLegacy), cudaErrorInvalidResourceHandle,
                 ReportKind::bad_argument);
}

TEST_P(SimRaces, AllocatorOrdersReuse) {
  Config wanted = config();
  wanted.reuse_addresses = true;
  World world(wanted);
  const cudaStream_t a = world.stream();
  void* first = nullptr;
  ASSERT_CUDA(world.api.malloc_async(&first, kCount, a));
  world.sim.enqueue_write(a, first, pattern(kCount, 1));
  ASSERT_CUDA(world.api.free_async(first, a));
  void* second = nullptr;
  ASSERT_CUDA(world.api.malloc_async(&second, kCount, a));
  ASSERT_EQ(first, second);
  world.sim.enqueue_write(a, second, pattern(kCount, 2));
  world.sim.synchronize(a);
  EXPECT_EQ(world.read(second, kCount), pattern(kCount, 2));
  EXPECT_NO_REPORTS(world);
  EXPECT_EQ(world.sim.peak_async_bytes(), kCount);
}

}  // namespace
}  // namespace dlbridge::cuda_sim
