// SPDX-License-Identifier: Apache-2.0
// The real table, without the simulator: it fills itself once, answers with a status where there is
// no driver, and leaves nothing behind. What needs its driver to be absent or present says so.
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <thread>
#include <vector>

#include "runtime/cuda_api.h"

namespace dlbridge::cuda {
namespace {

bool has_driver() {
  int version = 0;
  return runtime_table().driver_get_version(&version) == cudaSuccess && version != 0;
}

TEST(RuntimeTable, NamesEveryFunction) {
  const CudaApi& api = runtime_table();
#define RUNTIME(member, symbol) EXPECT_NE(api.member, nullptr) << #member;
#define DRIVER(member, symbol, version) EXPECT_NE(api.member, nullptr) << #member;
#include "runtime/cuda_api.def"
#undef RUNTIME
#undef DRIVER
  EXPECT_NE(api.launch, nullptr);
  EXPECT_NE(api.gather, nullptr);
  EXPECT_NE(api.preload_kernels, nullptr);
}

TEST(RuntimeTable, IsOneForAllThreads) {
  std::array<const CudaApi*, 8> seen{};
  {
    std::vector<std::jthread> threads;
    for (const CudaApi*& entry : seen) threads.emplace_back([&entry] { entry = &runtime_table(); });
  }
  for (const CudaApi* entry : seen) EXPECT_EQ(entry, &runtime_table());
}

// How many traces the first question leaves behind. Only a fresh process can tell.
int traces_of_filling() {
  const CudaApi& api = runtime_table();
  unsigned flags = 0;
  int active = 0;
  CUcontext current = nullptr;
  api.device_primary_ctx_get_state(0, &flags, &active);
  api.ctx_get_current(&current);
  return active + (current != nullptr ? 1 : 0);
}

TEST(RuntimeTableDeathTest, LeavesNoContext) {
  if (!has_driver()) {
    GTEST_SKIP() << "no CUDA driver on this machine: there are no contexts";
  }
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(std::exit(traces_of_filling()), testing::ExitedWithCode(0), "");
}

class NoDriver : public testing::Test {
 protected:
  void SetUp() override {
    if (has_driver()) GTEST_SKIP() << "this machine has a CUDA driver";
  }

  const CudaApi& api_ = runtime_table();
};

TEST_F(NoDriver, FirstCallReportsIt) {
  int count = -1;
  const cudaError_t result = api_.get_device_count(&count);
  EXPECT_TRUE(result == cudaErrorInsufficientDriver || result == cudaErrorNoDevice) << result;
  int version = -1;
  EXPECT_EQ(api_.driver_get_version(&version), cudaSuccess);
  EXPECT_EQ(version, 0);
  EXPECT_EQ(api_.runtime_get_version(&version), cudaSuccess);
  EXPECT_EQ(version, CUDART_VERSION);
}

TEST_F(NoDriver, EveryDriverCallReportsIt) {
  CUcontext context = nullptr;
  unsigned flags = 0;
  int active = 0;
  EXPECT_EQ(api_.ctx_get_current(&context), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(api_.ctx_push_current(context), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(api_.ctx_pop_current(&context), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(api_.device_primary_ctx_get_state(0, &flags, &active), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(api_.device_primary_ctx_retain(&context, 0), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(api_.device_primary_ctx_release(0), CUDA_ERROR_NOT_INITIALIZED);
}

TEST_F(NoDriver, RuntimeCallsReportIt) {
  std::array<char, 64> memory{};
  cudaPointerAttributes attributes;
  cudaStream_t stream = nullptr;
  cudaEvent_t event = nullptr;
  void* device = nullptr;
  EXPECT_NE(api_.pointer_get_attributes(&attributes, memory.data()), cudaSuccess);
  EXPECT_NE(api_.stream_create_with_flags(&stream, cudaStreamNonBlocking), cudaSuccess);
  EXPECT_NE(api_.event_create_with_flags(&event, cudaEventDisableTiming), cudaSuccess);
  EXPECT_NE(api_.malloc_async(&device, 64, nullptr), cudaSuccess);
  EXPECT_NE(api_.host_register(memory.data(), memory.size(), cudaHostRegisterPortable),
            cudaSuccess);
  EXPECT_NE(api_.memcpy_async(memory.data(), memory.data() + 32, 32, cudaMemcpyDefault, nullptr),
            cudaSuccess);
}

TEST_F(NoDriver, IsAStatusOfKernels) {
  EXPECT_NE(api_.preload_kernels(), cudaSuccess);
  PackParams params{};
  params.element_bytes = 4;
  params.count = 1;
  EXPECT_NE(api_.launch(KernelId::strided, params, nullptr), cudaSuccess);
  GatherParams gather{};
  gather.count = 1;
  EXPECT_NE(api_.gather(gather, nullptr), cudaSuccess);
}

// What a launch refuses, it refuses before any device is asked.
TEST(LaunchPackKernel, RefusesWhatNoKernelTakes) {
  const CudaApi& api = runtime_table();
  PackParams params{};
  params.element_bytes = 3;
  params.count = 1;
  EXPECT_EQ(api.launch(KernelId::strided, params, nullptr), cudaErrorInvalidValue);
  params.element_bytes = 4;
  params.rank = 1;
  EXPECT_EQ(api.launch(KernelId::transpose, params, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(api.launch(KernelId::gather, params, nullptr), cudaErrorInvalidValue);
  GatherParams gather{};
  gather.count = GatherParams::kMaxRuns + 1;
  EXPECT_EQ(api.gather(gather, nullptr), cudaErrorInvalidValue);
}

TEST(LaunchPackKernel, SkipsEmptyCopies) {
  PackParams params{};
  params.element_bytes = 4;
  params.rank = 2;
  EXPECT_EQ(runtime_table().launch(KernelId::transpose, params, nullptr), cudaSuccess);
  EXPECT_EQ(runtime_table().gather(GatherParams{}, nullptr), cudaSuccess);
}

}  // namespace
}  // namespace dlbridge::cuda
