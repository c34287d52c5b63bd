// SPDX-License-Identifier: Apache-2.0
// The simulator: each kind of mistake is reported, and its correct twin is not.
#include "cuda_sim/sim_kit.h"

namespace dlbridge::cuda_sim {
namespace {

constexpr size_t kCount = 256;

class SimRaces : public EverySchedule {};
FOR_EVERY_SCHEDULE(SimRaces);

TEST_P(SimRaces, HostTouchesBeforeWaiting) {
  enum Wait { none, of_another_stream, of_its_stream };
  for (const bool to_host : {false, true}) {
    for (const Wait wait : {none, of_another_stream, of_its_stream}) {
      CopyWorld world(kCount, config());
      uint8_t* const host = world.host.data();
      world.copy(to_host ? host : world.memory, to_host ? world.memory : host, kCount,
                 world.copies);
      if (!to_host) world.sim.host_read(host, kCount);  // reading what is read is nothing
      if (wait != none) {
        ASSERT_CUDA(
            world.api.stream_synchronize(wait == of_its_stream ? world.copies : world.stream()));
      }
      if (to_host) {
        world.sim.host_read(host + kCount - 1, 1);
      } else {
        world.sim.host_wrote(host, 1);
      }
      EXPECT_ONLY_IF(wait != of_its_stream, world, ReportKind::race);
      world.sim.finish();
    }
  }
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
  const CUstream copies = world.stream();
  world.sim.enqueue_write(copies, memory, pattern(kCount, 1));
  world.copy(host.data(), memory, kCount, copies);
  world.copy(memory + kCount, host.data(), kCount, copies);
  world.copy(host.data(), memory, kCount, copies);  // nor does a later writer count
  ASSERT_CUDA(world.api.stream_synchronize(copies));
  EXPECT_EQ(world.read(memory + kCount, kCount), pattern(kCount, 1));
  EXPECT_NO_REPORTS(world);
}

TEST_P(SimRaces, MemoryGoesWhilePending) {
  for (const bool wait : {false, true}) {
    for (const bool pinned : {false, true}) {
      World world(config());
      void* memory = world.sim.device_alloc(kCount);
      const CUstream copies = world.stream();
      {
        PinnedBytes host(world.api, kCount);
        if (pinned) {
          world.copy(memory, host.data(), kCount, copies);
        } else {
          world.sim.enqueue_write(copies, memory, Bytes(kCount));
        }
        if (wait) world.sim.synchronize(copies);
        if (!pinned) world.sim.device_free(memory);
      }
      EXPECT_ONLY_IF(!wait, world, ReportKind::freed_while_pending);
      world.sim.finish();  // touches the memory that is gone no more
      if (pinned) continue;
      Bytes host(kCount);
      EXPECT_REFUSED(world, world.api.memcpy_async(host.data(), memory, kCount, copies),
                     CUDA_ERROR_INVALID_VALUE, ReportKind::use_after_destroy);
    }
  }
}

TEST_P(SimRaces, AllocationNeedsStreamOrder) {
  for (const bool ordered : {false, true}) {
    World world(config());
    const CUstream a = world.stream();
    const CUstream b = world.stream();
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
    EXPECT_REFUSED(world, world.api.free_async(memory, a), CUDA_ERROR_INVALID_VALUE,
                   ReportKind::use_after_destroy);
    EXPECT_EQ(world.sim.leaks().async_allocations, 0u);
  }
}

TEST_P(SimRaces, AllocatorOrdersReuse) {
  World world({.schedule = GetParam(), .reuse_addresses = true});
  const CUstream a = world.stream();
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
