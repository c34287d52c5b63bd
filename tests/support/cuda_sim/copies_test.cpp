// SPDX-License-Identifier: Apache-2.0
// The simulator: memory and copies.
#include <algorithm>
#include <random>
#include <thread>

#include "cuda_sim/byte_set.h"
#include "cuda_sim/sim_kit.h"
#include "runtime/guards.h"

namespace dlbridge::cuda_sim {
namespace {

constexpr size_t kCount = 4096;

// In a child, which must not return into the test.
void touch_device_memory() {
  World world;
  auto* memory = static_cast<volatile char*>(world.sim.device_alloc(kCount));
  memory[0] = 1;
}

TEST(SimMemoryDeathTest, HostCannotTouchDeviceMemory) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(touch_device_memory(), "");
}

TEST(SimCopies, RefusePastTheEnd) {
  World world;
  auto* device = static_cast<char*>(world.sim.device_alloc(kCount));
  PinnedBytes host(world.api, 2 * kCount);
  const CUstream s = world.stream();
  const auto copy = [&](void* target, const void* source, size_t count) {
    return world.api.memcpy_async(target, source, count, s);
  };
  constexpr auto kRefused = CUDA_ERROR_INVALID_VALUE;
  EXPECT_REFUSED(world, copy(device + 1, host.data(), kCount), kRefused, ReportKind::bad_argument);
  EXPECT_REFUSED(world, copy(device, nullptr, kCount), kRefused, ReportKind::bad_argument);
  EXPECT_REFUSED(world, copy(device, device + 8, 16), kRefused, ReportKind::bad_argument);
  EXPECT_CUDA(copy(nullptr, nullptr, 0));
  EXPECT_NO_REPORTS(world);
}

// Rows of 8 bytes from the host to every second 8 bytes of the device.
CUDA_MEMCPY2D rows(void* device, const void* host) {
  CUDA_MEMCPY2D made{};
  made.srcMemoryType = CU_MEMORYTYPE_HOST;
  made.srcHost = host;
  made.srcPitch = 8;
  made.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  made.dstDevice = device;
  made.dstPitch = 16;
  made.WidthInBytes = 8;
  made.Height = 63;
  return made;
}

CUDA_MEMCPY3D boxes(void* target, size_t pitch, size_t height, const void* source) {
  CUDA_MEMCPY3D made{};
  made.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  made.srcDevice = source;
  made.srcPitch = 16;
  made.srcHeight = 6;
  made.dstMemoryType = CU_MEMORYTYPE_HOST;
  made.dstHost = target;
  made.dstPitch = pitch;
  made.dstHeight = height;
  made.WidthInBytes = 5;
  made.Height = 4;
  made.Depth = 2;
  return made;
}

// What they move: tests/contract.
TEST(SimCopies, RefusePitchesSlicesAndTypesThatDoNotFit) {
  World world;
  void* device = world.sim.device_alloc(256);
  PinnedBytes host(world.api, 256);
  const CUstream s = world.stream();
  CUDA_MEMCPY3D wrong_type = boxes(host.data(), 8, 4, device);
  wrong_type.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  wrong_type.dstDevice = host.data();
  const CUDA_MEMCPY3D good = boxes(host.data(), 8, 4, device);
  EXPECT_CUDA(world.api.memcpy_3d_async(&good, s));
  EXPECT_NO_REPORTS(world);
  for (const CUDA_MEMCPY3D& bad :
       {boxes(host.data(), 4, 4, device), boxes(host.data(), size_t{1} << 31, 4, device),
        boxes(host.data(), 8, 3, device), wrong_type}) {
    EXPECT_REFUSED(world, world.api.memcpy_3d_async(&bad, s), CUDA_ERROR_INVALID_VALUE,
                   ReportKind::bad_argument);
  }
}

TEST(SimCopies, InterleavedRowsDoNotRace) {
  for (const size_t shift : {size_t{8}, size_t{7}}) {
    World world;
    auto* device = static_cast<char*>(world.sim.device_alloc(16 * 64));
    PinnedBytes a(world.api, 8 * 64);
    PinnedBytes b(world.api, 8 * 64);
    const CUDA_MEMCPY2D one = rows(device, a.data());
    const CUDA_MEMCPY2D other = rows(device + shift, b.data());
    ASSERT_CUDA(world.api.memcpy_2d_async(&one, world.stream()));
    ASSERT_CUDA(world.api.memcpy_2d_async(&other, world.stream()));
    EXPECT_ONLY_IF(shift != 8, world, ReportKind::race);
    world.sim.finish();
  }
}

TEST(SimCopies, RefuseCrossingASeam) {
  World world;
  void* device = world.sim.device_alloc(4 * kCount);
  auto* pages = static_cast<char*>(std::aligned_alloc(4096, 3 * 4096));
  ASSERT_CUDA(world.api.host_register(pages, 4096, CU_MEMHOSTREGISTER_PORTABLE));
  ASSERT_CUDA(world.api.host_register(pages + 4096, 4096, CU_MEMHOSTREGISTER_PORTABLE));
  const CUstream s = world.stream();
  world.copy(device, pages, 4096, s);
  world.copy(device, pages + 4096, 4096, s);
  EXPECT_NO_REPORTS(world);
  for (const auto& [from, count] : {std::pair{4095, 2}, {0, 8192}, {8191, 2}}) {
    EXPECT_REFUSED(world,
                   world.api.memcpy_async(device, pages + from, static_cast<size_t>(count), s),
                   CUDA_ERROR_INVALID_VALUE, ReportKind::seam_crossed);
  }
  const CUDA_MEMCPY2D across = rows(device, pages + 4096 - 8);
  EXPECT_REFUSED(world, world.api.memcpy_2d_async(&across, s), CUDA_ERROR_INVALID_VALUE,
                 ReportKind::seam_crossed);
  world.sim.finish();
  EXPECT_CUDA(world.api.host_unregister(pages));
  EXPECT_CUDA(world.api.host_unregister(pages + 4096));
  std::free(pages);
  EXPECT_NO_REPORTS(world);
}

TEST(SimRegistration, RefusesOverlapsAndHugePieces) {
  World world(
      {.max_registration_bytes = 4 * 4096, .max_registered_bytes_total = 4096 + 1 + 10 + 5});
  auto* pages = static_cast<char*>(std::aligned_alloc(4096, 8 * 4096));
  EXPECT_REFUSED(world, world.api.host_register(pages, 5 * 4096, 0), CUDA_ERROR_INVALID_VALUE,
                 ReportKind::bad_argument);
  ASSERT_CUDA(world.api.host_register(pages, 4096 + 1, 0));
  EXPECT_EQ(world.api.host_register(pages, 4096, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  EXPECT_EQ(world.api.host_register(pages + 8000, 10, 0),
            CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  EXPECT_CUDA(world.api.host_register(pages + 8192, 10, 0));
  EXPECT_EQ(world.sim.registered_bytes(), 4096u + 1 + 10);
  EXPECT_EQ(world.sim.leaks().registrations, 2u);
  EXPECT_EQ(world.api.host_register(pages + 4 * 4096, 6, 0), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_CUDA(world.api.host_register(pages + 4 * 4096, 5, 0));
  EXPECT_NO_REPORTS(world);
  EXPECT_REFUSED(world, world.api.host_unregister(pages + 1), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
                 ReportKind::bad_argument);
  for (const int at : {0, 8192, 4 * 4096}) EXPECT_CUDA(world.api.host_unregister(pages + at));
  EXPECT_TRUE(world.sim.leaks().none());
  EXPECT_EQ(world.sim.peak_registered_bytes(), 4096u + 1 + 10 + 5);
  std::free(pages);
}

TEST(SimRegistration, NonPortableIsOneContexts) {
  for (const unsigned flags : {0u, unsigned{CU_MEMHOSTREGISTER_PORTABLE}}) {
    World world;
    PinnedBytes host(world.api, kCount, flags);
    world.sim.use_device(0);
    cuda::PointerAttributes attributes;
    ASSERT_CUDA(cuda::read_attributes(world.api, host.data(), attributes));
    EXPECT_EQ(attributes.kind, flags != 0 ? cuda::MemoryKind::pinned : cuda::MemoryKind::pageable);
    world.sim.use_device(1);
  }
}

TEST(SimPageable, SynchronousCopyBlocksUntilDone) {
  World world({.schedule = Schedule::lazy, .pageable = Pageable::synchronous});
  void* device = world.sim.device_alloc(kCount);
  const CUstream s = world.stream();
  Bytes host = pattern(kCount, 1);
  world.sim.hold();
  std::thread copier([&] {
    world.sim.use_device(1);
    world.copy(device, host.data(), kCount, s);
    EXPECT_EQ(world.sim.pending_operations(), 0u);
  });
  ASSERT_TRUE(world.sim.wait_until_blocked(1));
  world.sim.go();
  copier.join();
  world.sim.host_wrote(host.data(), kCount);
  EXPECT_EQ(world.read(device, kCount), host);
  EXPECT_NO_REPORTS(world);
}

TEST(SimPageable, DeferredCopyReadsLater) {
  World world({.schedule = Schedule::lazy, .pageable = Pageable::deferred});
  void* device = world.sim.device_alloc(kCount);
  const CUstream s = world.stream();
  Bytes host = pattern(kCount, 1);
  world.copy(device, host.data(), kCount, s);
  ++host[77];
  world.sim.synchronize(s);
  EXPECT_ONLY(world, ReportKind::host_source_changed);
}

TEST(SimPageable, StagedCopyHasReadSource) {
  World world({.schedule = Schedule::lazy, .pageable = Pageable::staged});
  void* device = world.sim.device_alloc(kCount);
  const CUstream s = world.stream();
  {
    Bytes host = pattern(kCount, 1);
    world.copy(device, host.data(), kCount, s);
    world.sim.host_wrote(host.data(), kCount);
    std::fill(host.begin(), host.end(), uint8_t{0});
  }
  EXPECT_EQ(world.sim.pending_operations(), 1u);
  world.sim.host_wrote(device, kCount);
  EXPECT_ONLY(world, ReportKind::race);
  world.sim.synchronize(s);
  EXPECT_EQ(world.read(device, kCount), pattern(kCount, 1));
  Bytes back(kCount);  // the other way is synchronous
  world.copy(back.data(), device, kCount, s);
  EXPECT_EQ(back, pattern(kCount, 1));
  EXPECT_NO_REPORTS(world);
}

TEST(SimPageable, EachWayIsDrawn) {
  int pending = 0;
  int over = 0;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    World world(schedule(Schedule::lazy, seed));
    void* device = world.sim.device_alloc(kCount);
    Bytes host(kCount);
    world.copy(device, host.data(), kCount, world.stream());
    ++(world.sim.pending_operations() == 0 ? over : pending);
    world.sim.finish();
  }
  EXPECT_GT(pending, 5);
  EXPECT_GT(over, 3);
}

TEST(SimMemory, CountsAsyncAllocations) {
  World world;
  const CUstream s = world.stream();
  void* a = nullptr;
  void* b = nullptr;
  world.sim.set_device_memory_limit(3 * kCount);
  ASSERT_CUDA(world.api.malloc_async(&a, kCount, s));
  ASSERT_CUDA(world.api.malloc_async(&b, 2 * kCount, s));
  void* c = a;
  EXPECT_EQ(world.api.malloc_async(&c, 1, s), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(c, nullptr);
  EXPECT_EQ(world.sim.async_bytes(), 3 * kCount);
  EXPECT_EQ(world.sim.leaks().async_allocations, 2u);
  EXPECT_EQ(world.read(a, kCount), Bytes(kCount, 0xDB));
  ASSERT_CUDA(world.api.free_async(b, s));
  ASSERT_CUDA(world.api.malloc_async(&b, 2 * kCount, s));
  ASSERT_CUDA(world.api.free_async(a, s));
  ASSERT_CUDA(world.api.free_async(b, s));
  EXPECT_CUDA(world.api.free_async(nullptr, s));
  EXPECT_EQ(world.sim.peak_async_bytes(), 3 * kCount);
  EXPECT_EQ(world.sim.async_bytes(), 0u);
  EXPECT_TRUE(world.sim.leaks().none());
  EXPECT_NO_REPORTS(world);
}

TEST(SimMemory, ReusesFreedAddresses) {
  World world;
  const CUstream s = world.stream();
  for (int i = 0; i < 40000; ++i) {  // twice as many mappings as a process may have
    void* memory = nullptr;
    ASSERT_CUDA(world.api.malloc_async(&memory, 1, s));
    ASSERT_CUDA(world.api.free_async(memory, s));
    if (i % 100 == 0) {
      ASSERT_CUDA(world.api.stream_synchronize(s));
    }
  }
  EXPECT_NO_REPORTS(world);
}

TEST(SimByteSet, OverlapIsExact) {
  std::mt19937 random(7);
  const auto draw = [&](int below) {
    return static_cast<int64_t>(random() % static_cast<unsigned>(below));
  };
  int overlapping = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<ByteSet> sets;
    std::vector<std::set<uintptr_t>> bytes;
    for (int which = 0; which < 2; ++which) {
      const auto base = static_cast<uintptr_t>(1000 + draw(60));
      const auto run = static_cast<size_t>(1 + draw(4));
      ByteSet set(reinterpret_cast<const void*>(base), run);
      std::set<uintptr_t> expected;
      for (size_t i = 0; i < run; ++i) expected.insert(base + i);
      for (int64_t rank = draw(3); rank > 0; --rank) {
        const int64_t count = draw(8) == 0 ? 0 : 1 + draw(4);
        const int64_t stride = draw(40) - 20;
        set.repeat(count, stride);
        std::set<uintptr_t> all;
        for (int64_t i = 0; i < count; ++i) {
          for (const uintptr_t at : expected) all.insert(at + static_cast<uintptr_t>(i * stride));
        }
        expected = all;
      }
      std::set<uintptr_t> visited;
      set.each_run([&](uintptr_t at, size_t n) {
        for (size_t i = 0; i < n; ++i) visited.insert(at + i);
      });
      ASSERT_EQ(visited, expected);
      if (!expected.empty()) {
        ASSERT_EQ(set.begin(), *expected.begin());
        ASSERT_EQ(set.end(), *expected.rbegin() + 1);
      }
      sets.push_back(set);
      bytes.push_back(expected);
    }
    const bool meet = std::any_of(bytes[0].begin(), bytes[0].end(),
                                  [&](uintptr_t at) { return bytes[1].count(at) != 0; });
    ASSERT_EQ(sets[0].overlaps(sets[1]), meet);
    ASSERT_EQ(sets[1].overlaps(sets[0]), meet);
    overlapping += meet;
  }
  EXPECT_GT(overlapping, 300);
  EXPECT_LT(overlapping, 2700);
}

}  // namespace
}  // namespace dlbridge::cuda_sim
