// SPDX-License-Identifier: Apache-2.0
// The simulator: each kind of mistake is reported, and its correct twin is not.
#include "cuda_sim/sim_kit.h"

namespace dlbridge::cuda_sim {
namespace {

constexpr size_t kCount = 256;

class SimRaces : public EverySchedule {};
FOR_EVERY_SCHEDULE(SimRaces);

TEST_P(SimRaces, HostTouchesBeforeWaiting) {
  for (const bool to_host : {false, true}) {
    for (const bool wait : {false, true}) {
      CopyWorld world(kCount, config());
      uint8_t* const host = world.host.data();
      world.copy(to_host ? host : world.memory, to_host ? world.memory : host, kCount,
                 world.copies);
      if (!to_host) world.sim.host_read(host, kCount);  // reading what is read is nothing
      world.sim.synchronize(wait ? world.copies : world.stream());
      if (to_host)
        world.sim.host_read(host + kCount - 1, 1);
      else
        world.sim.host_wrote(host, 1);
      EXPECT_ONLY_IF(!wait, world, ReportKind::race);
      world.sim.finish();
    }
  }
}

TEST(SimHost, ReportsChangedSource) {
  for (const bool wait : {false, true}) {
    for (const bool pinned : {false, true}) {
      CopyWorld world(kCount, {.schedule = Schedule::lazy, .pageable = Pageable::deferred});
      Bytes pageable(kCount);
      uint8_t* source = pinned ? world.host.data() : pageable.data();
      world.copy(world.memory, source, kCount, world.copies);
      if (wait) world.sim.synchronize(world.copies);
      ++source[kCount - 1];
      world.sim.synchronize(world.copies);
      EXPECT_ONLY_IF(!wait, world, ReportKind::host_source_changed);
    }
  }
}

TEST_P(SimRaces, MemoryGoesWhilePending) {
  for (const bool wait : {false, true}) {
    for (const bool pinned : {false, true}) {
      World world(config());
      void* memory = world.alloc(kCount);
      const CUstream copies = world.stream();
      {
        PinnedBytes host(world.api, kCount);
        if (pinned)
          world.copy(memory, host.data(), kCount, copies);
        else
          world.sim.enqueue_write(copies, memory, Bytes(kCount));
        if (wait) world.sim.synchronize(copies);
        if (!pinned) world.sim.device_free(memory);
      }
      EXPECT_ONLY_IF(!wait, world, ReportKind::freed_while_pending);
      world.sim.finish();  // touches the memory that is gone no more
      if (pinned) continue;
      Bytes host(kCount);
      EXPECT_REFUSED(world, world.api.memcpy_async(host.data(), memory, kCount, copies),
                     CUDA_ERROR_INVALID_VALUE, ReportKind::use_after_destroy);
      world.sim.device_free(memory);
      EXPECT_ONLY(world, ReportKind::use_after_destroy);
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
    EXPECT_TRUE(world.sim.leaks().none());
  }
}

}  // namespace
}  // namespace dlbridge::cuda_sim
