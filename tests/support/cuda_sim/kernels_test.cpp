// SPDX-License-Identifier: Apache-2.0
// The simulator: kernels touch what their parameters say. Their bodies:
// cuda/kernels/pack_body_test.
#include "cuda_sim/sim_kit.h"

namespace dlbridge::cuda_sim {
namespace {

using cuda::KernelId;
using cuda::PackParams;

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

TEST(SimKernels, WantPreload) {
  for (const bool preload : {false, true}) {
    World world;
    auto* memory = static_cast<char*>(world.sim.device_alloc(128));
    if (preload) {
      ASSERT_CUDA(world.api.preload_kernels());
    }
    const CUstream stream = world.stream();
    ASSERT_CUDA(world.api.launch(KernelId::strided, every(memory, memory + 64, 4, 1), stream));
    EXPECT_ONLY_IF(!preload, world, ReportKind::lazy_kernel_load);
    ASSERT_CUDA(world.api.launch(KernelId::strided, every(memory, memory + 64, 4, 1), stream));
    EXPECT_NO_REPORTS(world);
  }
}

TEST(SimKernels, InterleavedElementsDoNotRace) {
  for (const bool meet : {false, true}) {
    World world;
    auto* source = static_cast<char*>(world.sim.device_alloc(1024));
    auto* target = static_cast<char*>(world.sim.device_alloc(1024));
    ASSERT_CUDA(world.api.preload_kernels());
    ASSERT_CUDA(world.api.launch(KernelId::strided, every(source, target, 50, 2), world.stream()));
    PackParams backwards = every(source, target + (meet ? 8 * 49 : 8 * 49 + 4), 50, 2);
    backwards.target_stride_bytes[0] = -8;
    ASSERT_CUDA(world.api.launch(KernelId::strided, backwards, world.stream()));
    EXPECT_ONLY_IF(meet, world, ReportKind::race);
  }
}

TEST(SimKernels, WantTheirStreamsContext) {
  World world;
  auto* memory = static_cast<char*>(world.sim.device_alloc(128));
  const CUstream stream = world.stream();
  ASSERT_CUDA(world.api.preload_kernels());
  world.sim.use_device(0);
  EXPECT_REFUSED(world,
                 world.api.launch(KernelId::strided, every(memory, memory + 64, 4, 1), stream),
                 CUDA_ERROR_INVALID_HANDLE, ReportKind::wrong_context);
}

TEST(SimKernels, FaultOnUnreachable) {
  World world;
  auto* memory = static_cast<char*>(world.sim.device_alloc(128));
  char host[64] = {};
  ASSERT_CUDA(world.api.preload_kernels());
  const CUstream stream = world.stream();
  EXPECT_REFUSED(world,
                 world.api.launch(KernelId::strided, every(memory, memory + 64, 0, 1), stream),
                 CUDA_ERROR_INVALID_VALUE, ReportKind::bad_argument);
  PackParams wrong = every(memory, memory + 64, 4, 1);
  wrong.count = 5;
  EXPECT_REFUSED(world, world.api.launch(KernelId::strided, wrong, stream),
                 CUDA_ERROR_INVALID_VALUE, ReportKind::bad_argument);
  EXPECT_CUDA(world.api.launch(KernelId::strided, every(memory, host, 4, 1), stream));
  EXPECT_ONLY(world, ReportKind::bad_argument);
  EXPECT_EQ(world.api.stream_synchronize(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
}

TEST(SimKernels, GatherRuns) {
  World world;
  auto* memory = static_cast<char*>(world.sim.device_alloc(256));
  world.sim.write(memory, pattern(256, 3));
  char host[64] = {};
  ASSERT_CUDA(world.api.preload_kernels());
  const CUstream stream = world.stream();
  cuda::GatherParams params{2, {{memory, memory + 128, 16}, {memory + 32, memory + 144, 7}}};
  ASSERT_CUDA(world.api.gather(params, stream));
  ASSERT_CUDA(world.api.stream_synchronize(stream));
  EXPECT_EQ(world.read(memory + 128, 16), world.read(memory, 16));
  EXPECT_EQ(world.read(memory + 144, 7), world.read(memory + 32, 7));
  EXPECT_NO_REPORTS(world);
  params.count = 0;
  EXPECT_REFUSED(world, world.api.gather(params, stream), CUDA_ERROR_INVALID_VALUE,
                 ReportKind::bad_argument);
  params = {1, {{memory, host, 16}}};
  EXPECT_CUDA(world.api.gather(params, stream));
  EXPECT_ONLY(world, ReportKind::bad_argument);
  EXPECT_EQ(world.api.stream_synchronize(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
}

TEST(SimKernels, ReachRegisteredMemory) {
  World world(schedule(Schedule::lazy));
  void* memory = world.sim.device_alloc(64);
  world.sim.write(memory, pattern(64, 2));
  PinnedBytes host(world.api, 64);
  ASSERT_CUDA(world.api.preload_kernels());
  const CUstream stream = world.stream();
  PackParams params = every(memory, host.data(), 16, 1);
  ASSERT_CUDA(world.api.launch(KernelId::strided, params, stream));
  std::memset(&params, 0xFF, sizeof params);  // copied at the call
  ASSERT_CUDA(world.api.stream_synchronize(stream));
  EXPECT_EQ(host.copy(64), pattern(64, 2));
  EXPECT_NO_REPORTS(world);
}

}  // namespace
}  // namespace dlbridge::cuda_sim
