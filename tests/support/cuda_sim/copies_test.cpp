// SPDX-License-Identifier: Apache-2.0
// The simulator: memory, copies and kernels.
#include <algorithm>
#include <random>

#include "cuda_sim/byte_set.h"
#include "cuda_sim/sim_kit.h"
#include "runtime/guards.h"

namespace dlbridge::cuda_sim {
namespace {

using cuda::GatherParams;
using cuda::KernelId;
using cuda::PackParams;

constexpr size_t kCount = 4096;

TEST(SimMemoryDeathTest, HostCannotTouchDeviceMemory) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  World world;
  volatile uint8_t* memory = world.alloc(kCount);
  EXPECT_DEATH(*memory = 1, "");
}

TEST(SimCopies, RefuseWhatIsNoCopy) {
  CopyWorld world(kCount);
  auto* device = static_cast<char*>(world.memory);
  const auto copy = [&](void* target, const void* source, size_t count) {
    return world.api.memcpy_async(target, source, count, world.copies);
  };
  constexpr auto kRefused = CUDA_ERROR_INVALID_VALUE;
  EXPECT_REFUSED(world, copy(device + 1, world.host.data(), kCount), kRefused,
                 ReportKind::bad_argument);
  EXPECT_REFUSED(world, copy(device, nullptr, kCount), kRefused, ReportKind::bad_argument);
  EXPECT_REFUSED(world, copy(device, device + 8, 16), kRefused, ReportKind::bad_argument);
  EXPECT_CUDA(copy(nullptr, nullptr, 0));
  EXPECT_NO_REPORTS(world);
}

// A box of 5 bytes, 4 rows and 2 slices from the device to the host.
CUDA_MEMCPY3D box(const CopyWorld& world, size_t pitch, size_t height) {
  return {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
          .srcDevice = world.memory,
          .srcPitch = 16,
          .srcHeight = 6,
          .dstMemoryType = CU_MEMORYTYPE_HOST,
          .dstHost = world.host.data(),
          .dstDevice = world.host.data(),
          .dstPitch = pitch,
          .dstHeight = height,
          .WidthInBytes = 5,
          .Height = 4,
          .Depth = 2};
}

// What they move: tests/contract.
TEST(SimCopies, RefusePitchesSlicesAndTypesThatDoNotFit) {
  CopyWorld world(256);
  const CUDA_MEMCPY3D good = box(world, 8, 4);
  CUDA_MEMCPY3D wrong_type = good;
  wrong_type.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  EXPECT_CUDA(world.api.memcpy_3d_async(&good, world.copies));
  EXPECT_NO_REPORTS(world);
  for (const CUDA_MEMCPY3D& bad :
       {box(world, 4, 4), box(world, size_t{1} << 31, 4), box(world, 8, 3), wrong_type})
    EXPECT_REFUSED(world, world.api.memcpy_3d_async(&bad, world.copies), CUDA_ERROR_INVALID_VALUE,
                   ReportKind::bad_argument);
}

TEST(SimCopies, RefuseCrossingASeam) {
  World world;
  void* device = world.alloc(4 * kCount);
  alignas(4096) static char pages[3 * 4096];
  for (const size_t at : {0, 4096})
    EXPECT_CUDA(world.api.host_register(pages + at, 4096, CU_MEMHOSTREGISTER_PORTABLE));
  const CUstream s = world.stream();
  world.copy(device, pages, 4096, s);
  world.copy(device, pages + 4096, 4096, s);
  EXPECT_NO_REPORTS(world);
  for (const auto& [from, count] : {std::pair{4095, 2}, {0, 8192}, {8191, 2}}) {
    EXPECT_REFUSED(world,
                   world.api.memcpy_async(device, pages + from, static_cast<size_t>(count), s),
                   CUDA_ERROR_INVALID_VALUE, ReportKind::seam_crossed);
  }
  world.sim.finish();
}

TEST(SimRegistration, RefusesOverlapsAndHugePieces) {
  World world(
      {.max_registration_bytes = 4 * 4096, .max_registered_bytes_total = 4096 + 1 + 10 + 5});
  alignas(4096) static char pages[8 * 4096];
  const auto add = [&](size_t at, size_t bytes) {
    return world.api.host_register(pages + at, bytes, 0);
  };
  EXPECT_REFUSED(world, add(0, 5 * 4096), CUDA_ERROR_INVALID_VALUE, ReportKind::bad_argument);
  EXPECT_CUDA(add(0, 4096 + 1));
  EXPECT_EQ(add(0, 4096), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  EXPECT_EQ(add(8000, 10), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  EXPECT_CUDA(add(8192, 10));
  EXPECT_EQ(world.sim.registered_bytes(), 4096u + 1 + 10);
  EXPECT_EQ(world.sim.leaks().registrations, 2u);
  EXPECT_EQ(add(4 * 4096, 6), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_CUDA(add(4 * 4096, 5));
  EXPECT_NO_REPORTS(world);
  EXPECT_REFUSED(world, world.api.host_unregister(pages + 1), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
                 ReportKind::bad_argument);
  for (const int at : {0, 8192, 4 * 4096}) EXPECT_CUDA(world.api.host_unregister(pages + at));
  EXPECT_TRUE(world.sim.leaks().none());
  EXPECT_EQ(world.sim.peak_registered_bytes(), 4096u + 1 + 10 + 5);
}

TEST(SimRegistration, NonPortableIsOneContexts) {
  for (const unsigned flags : {0u, unsigned{CU_MEMHOSTREGISTER_PORTABLE}}) {
    World world;
    PinnedBytes host(world.api, kCount, flags);
    world.sim.use_device(0);
    const cuda::PointerAttributes found = cuda::attributes_of(world.api, host.data());
    ASSERT_CUDA(found.answer);
    EXPECT_EQ(found.kind, flags != 0 ? cuda::MemoryKind::pinned : cuda::MemoryKind::pageable);
    world.sim.use_device(1);
  }
}

TEST(SimPageable, SynchronousCopyBlocksUntilDone) {
  CopyWorld world(kCount, {.schedule = Schedule::lazy, .pageable = Pageable::synchronous});
  Bytes host = pattern(kCount, 1);
  world.sim.hold();
  std::thread copier = world.thread([&] {
    world.copy(world.memory, host.data(), kCount, world.copies);
    EXPECT_EQ(world.sim.pending_operations(), 0u);
  });
  EXPECT_TRUE(world.sim.wait_until_blocked(1));
  world.sim.go();
  copier.join();
  world.sim.host_wrote(host.data(), kCount);
  EXPECT_EQ(world.read(world.memory, kCount), host);
  EXPECT_NO_REPORTS(world);
}

TEST(SimPageable, StagedCopyHasReadSource) {
  CopyWorld world(kCount, {.schedule = Schedule::lazy, .pageable = Pageable::staged});
  Bytes host = pattern(kCount, 1);
  world.copy(world.memory, host.data(), kCount, world.copies);
  world.sim.host_wrote(host.data(), kCount);
  std::fill(host.begin(), host.end(), uint8_t{0});
  EXPECT_EQ(world.sim.pending_operations(), 1u);
  world.sim.host_wrote(world.memory, kCount);
  EXPECT_ONLY(world, ReportKind::race);
  world.sim.synchronize(world.copies);
  EXPECT_EQ(world.read(world.memory, kCount), pattern(kCount, 1));
  world.copy(host.data(), world.memory, kCount, world.copies);  // the other way is synchronous
  EXPECT_EQ(host, pattern(kCount, 1));
  EXPECT_NO_REPORTS(world);
}

TEST(SimPageable, EachWayIsDrawn) {
  int pending = 0;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    CopyWorld world(kCount, schedule(Schedule::lazy, seed));
    const Bytes host(kCount);
    world.copy(world.memory, host.data(), kCount, world.copies);
    pending += world.sim.pending_operations() != 0;
    world.sim.finish();
  }
  EXPECT_GT(pending, 5);
  EXPECT_LT(pending, 27);
}

TEST(SimMemory, ReusesFreedAddresses) {
  World world;
  const CUstream s = world.stream();
  for (int i = 0; i < 40000; ++i) {  // twice as many mappings as a process may have
    void* memory = nullptr;
    ASSERT_CUDA(world.api.malloc_async(&memory, 1, s));
    ASSERT_CUDA(world.api.free_async(memory, s));
    if (i % 100 == 0) world.sim.synchronize(s);
  }
  EXPECT_NO_REPORTS(world);
}

// ---- kernels; their bodies: cuda/kernels/pack_body_test

// Every `step`-th of `count` elements of 4 bytes, on both sides.
PackParams every(const void* source, void* target, int64_t count, int64_t step) {
  PackParams params = {};
  params.source = source;
  params.target = target;
  params.rank = 1;
  params.element_bytes = 4;
  params.count = count;
  params.extent[0] = count;
  params.source_stride_bytes[0] = params.target_stride_bytes[0] = 4 * step;
  return params;
}

struct KernelWorld : World {
  explicit KernelWorld(Config config = {}) : World(std::move(config)) {
    sim.write(memory, pattern(1024, 3));
    EXPECT_CUDA(api.preload_kernels());
  }
  CUresult launch(const PackParams& params, CUstream on) {
    return api.launch(KernelId::strided, params, on);
  }
  uint8_t* const memory = alloc(1024);
  const CUstream kernels = stream();
};

TEST(SimKernels, WantPreloadAndTheirStreamsContext) {
  KernelWorld world;
  const CUstream elsewhere = world.stream(CU_STREAM_NON_BLOCKING, 0);
  EXPECT_CUDA(world.launch(every(world.memory, world.memory + 64, 4, 1), world.kernels));
  EXPECT_NO_REPORTS(world);
  EXPECT_REFUSED(world, world.launch(every(world.memory, world.memory + 64, 4, 1), elsewhere),
                 CUDA_ERROR_INVALID_HANDLE, ReportKind::wrong_context);
  world.sim.use_device(0);
  world.launch(every(world.memory, world.memory + 64, 4, 1), elsewhere);
  EXPECT_GE(world.sim.reports_of(ReportKind::lazy_kernel_load), 1u);
}

TEST(SimKernels, InterleavedElementsDoNotRace) {
  for (const bool meet : {false, true}) {
    KernelWorld world;
    auto* target = world.alloc(1024);
    EXPECT_CUDA(world.launch(every(world.memory, target, 50, 2), world.kernels));
    PackParams backwards = every(world.memory, target + (meet ? 8 * 49 : 8 * 49 + 4), 50, 2);
    backwards.target_stride_bytes[0] = -8;
    EXPECT_CUDA(world.launch(backwards, world.stream()));
    EXPECT_ONLY_IF(meet, world, ReportKind::race);
  }
}

TEST(SimKernels, RefuseWhatIsNoCopy) {
  KernelWorld world;
  PackParams wrong = every(world.memory, world.memory + 64, 4, 1);
  wrong.count = 5;
  for (const PackParams& each : {wrong, every(world.memory, world.memory + 64, 0, 1)})
    EXPECT_REFUSED(world, world.launch(each, world.kernels), CUDA_ERROR_INVALID_VALUE,
                   ReportKind::bad_argument);
  EXPECT_REFUSED(world, world.api.gather(GatherParams{0, {}}, world.kernels),
                 CUDA_ERROR_INVALID_VALUE, ReportKind::bad_argument);
}

TEST(SimKernels, FaultOnUnreachableMemory) {
  for (const bool gather : {false, true}) {
    KernelWorld world;
    char host[64] = {};
    EXPECT_CUDA(gather ? world.api.gather({1, {{world.memory, host, 16}}}, world.kernels)
                       : world.launch(every(world.memory, host, 4, 1), world.kernels));
    EXPECT_ONLY(world, ReportKind::bad_argument);
    EXPECT_EQ(world.api.stream_synchronize(world.kernels), CUDA_ERROR_ILLEGAL_ADDRESS);
  }
}

TEST(SimKernels, CopyTheirParametersAtTheCall) {
  KernelWorld world(schedule(Schedule::lazy));
  PinnedBytes host(world.api, 256);
  PackParams params = every(world.memory, host.data(), 16, 1);
  GatherParams runs{
      2, {{world.memory, host.data() + 128, 16}, {world.memory + 32, host.data() + 144, 7}}};
  EXPECT_CUDA(world.launch(params, world.kernels));
  EXPECT_CUDA(world.api.gather(runs, world.kernels));
  std::memset(&params, 0xFF, sizeof params);
  std::memset(&runs, 0xFF, sizeof runs);
  EXPECT_CUDA(world.api.stream_synchronize(world.kernels));
  EXPECT_EQ(host.copy(64), world.read(world.memory, 64));
  EXPECT_EQ(Bytes(host.data() + 128, host.data() + 144), world.read(world.memory, 16));
  EXPECT_EQ(Bytes(host.data() + 144, host.data() + 151), world.read(world.memory + 32, 7));
  EXPECT_NO_REPORTS(world);
}

TEST(SimByteSet, OverlapIsExact) {
  std::mt19937 random(7);
  const auto draw = [&](int below) {
    return static_cast<int64_t>(random() % static_cast<unsigned>(below));
  };
  // A set of bytes and the same, each byte for itself.
  const auto make = [&] {
    const auto base = static_cast<uintptr_t>(1000 + draw(60));
    const auto run = static_cast<size_t>(1 + draw(4));
    ByteSet set(reinterpret_cast<const void*>(base), run);
    std::set<uintptr_t> bytes;
    for (size_t i = 0; i < run; ++i) bytes.insert(base + i);
    for (int64_t rank = draw(3); rank > 0; --rank) {
      const int64_t count = draw(8) == 0 ? 0 : 1 + draw(4);
      const int64_t stride = draw(40) - 20;
      set.repeat(count, stride);
      std::set<uintptr_t> all;
      for (int64_t i = 0; i < count; ++i) {
        for (const uintptr_t at : bytes) all.insert(at + static_cast<uintptr_t>(i * stride));
      }
      bytes = all;
    }
    std::set<uintptr_t> visited;
    for (const ByteSet::Run& each : set.runs()) {
      for (uintptr_t at = each.begin; at < each.end; ++at) visited.insert(at);
    }
    EXPECT_EQ(visited, bytes);
    EXPECT_TRUE(bytes.empty() || set.end() == *bytes.rbegin() + 1);
    return std::pair{set, bytes};
  };
  int overlapping = 0;
  for (int round = 0; round < 3000; ++round) {
    const auto [one, bytes] = make();
    const auto [other, others] = make();
    const bool meet = std::any_of(bytes.begin(), bytes.end(), [&, &others = others](uintptr_t at) {
      return others.contains(at);
    });
    ASSERT_EQ(one.overlaps(other), meet);
    ASSERT_EQ(other.overlaps(one), meet);
    overlapping += meet;
  }
  EXPECT_GT(overlapping, 300);
  EXPECT_LT(overlapping, 2700);
}

}  // namespace
}  // namespace dlbridge::cuda_sim
