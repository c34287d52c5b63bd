// SPDX-License-Identifier: Apache-2.0
// The real table, without the simulator: it fills itself once, answers with a status where there is
// no driver, and leaves nothing behind. What needs its driver to be absent or present says so.
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "runtime/cuda_api.h"

namespace dlbridge::cuda {
namespace {

bool has_driver() {
  int version = 0;
  return driver_table().driver_get_version(&version) == CUDA_SUCCESS && version != 0;
}

TEST(DriverTable, NamesEveryFunction) {
  const CudaApi& api = driver_table();
#define DRIVER(member, symbol, parameters) EXPECT_NE(api.member, nullptr) << #member;
#include "runtime/cuda_api.def"
#undef DRIVER
  EXPECT_NE(api.launch, nullptr);
  EXPECT_NE(api.gather, nullptr);
  EXPECT_NE(api.preload_kernels, nullptr);
}

TEST(DriverTable, IsOneForAllThreads) {
  std::array<const CudaApi*, 8> seen{};
  {
    std::vector<std::jthread> threads;
    for (const CudaApi*& entry : seen) threads.emplace_back([&entry] { entry = &driver_table(); });
  }
  for (const CudaApi* entry : seen) EXPECT_EQ(entry, &driver_table());
}

// How many traces the first question leaves behind. Only a fresh process can tell.
int traces_of_filling() {
  const CudaApi& api = driver_table();
  unsigned flags = 0;
  int active = 0;
  CUcontext current = nullptr;
  api.device_primary_ctx_get_state(0, &flags, &active);
  api.ctx_get_current(&current);
  return active + (current != nullptr ? 1 : 0);
}

TEST(DriverTableDeathTest, LeavesNoContext) {
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

  const CudaApi& api_ = driver_table();
};

template <class... Arguments>
CUresult called_with_zeros(CUresult (*function)(Arguments...)) {
  return function(Arguments{}...);
}

TEST_F(NoDriver, EveryCallReportsIt) {
#define DRIVER(member, symbol, parameters) \
  EXPECT_EQ(called_with_zeros(api_.member), CUDA_ERROR_NOT_INITIALIZED) << #member;
#include "runtime/cuda_api.def"
#undef DRIVER
}

TEST_F(NoDriver, IsAStatusOfKernels) {
  EXPECT_NE(api_.preload_kernels(), CUDA_SUCCESS);
  PackParams params{};
  params.element_bytes = 4;
  params.count = 1;
  EXPECT_NE(api_.launch(KernelId::strided, params, nullptr), CUDA_SUCCESS);
  GatherParams gather{};
  gather.count = 1;
  EXPECT_NE(api_.gather(gather, nullptr), CUDA_SUCCESS);
}

// A GPU alone would show that a name is wrong.
TEST(PackKernels, AreInThePtx) {
  const std::string ptx = kPackKernelsPtx;
  for (size_t i = 0; i < kPackKernels; ++i) {
    const std::string entry = ".entry " + pack_kernel_name(i) + "(";
    EXPECT_NE(ptx.find(entry), std::string::npos) << entry;
  }
}

// What a launch refuses, it refuses before any device is asked.
TEST(LaunchPackKernel, RefusesWhatNoKernelTakes) {
  const CudaApi& api = driver_table();
  PackParams params{};
  params.element_bytes = 3;
  params.count = 1;
  EXPECT_EQ(api.launch(KernelId::strided, params, nullptr), CUDA_ERROR_INVALID_VALUE);
  params.element_bytes = 4;
  params.rank = 1;
  EXPECT_EQ(api.launch(KernelId::transpose, params, nullptr), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(api.launch(KernelId::gather, params, nullptr), CUDA_ERROR_INVALID_VALUE);
  GatherParams gather{};
  gather.count = GatherParams::kMaxRuns + 1;
  EXPECT_EQ(api.gather(gather, nullptr), CUDA_ERROR_INVALID_VALUE);
}

TEST(LaunchPackKernel, SkipsEmptyCopies) {
  PackParams params{};
  params.element_bytes = 4;
  params.rank = 2;
  EXPECT_EQ(driver_table().launch(KernelId::transpose, params, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(driver_table().gather(GatherParams{}, nullptr), CUDA_SUCCESS);
}

}  // namespace
}  // namespace dlbridge::cuda
