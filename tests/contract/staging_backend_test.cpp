// SPDX-License-Identifier: Apache-2.0
// The module as core's StagingBackend: what it connects, and what plans make of it.
#include "contract_test.h"
#include "dlbridge/plan.h"
#include "traits.h"

namespace dlbridge::contract {
namespace {

class CudaStagingBackend : public Contract {
 protected:
  void SetUp() override {
    Contract::SetUp();
    cuda::register_cuda_staging();
  }
};

TEST_F(CudaStagingBackend, ConnectsHostAndDevice) {
  const Device managed(DeviceType::cuda_managed, gpu().id());
  for (const DeviceType type : {DeviceType::cpu, DeviceType::cuda_host}) {
    const Device host(type);
    EXPECT_NE(find_staging(gpu(), host), nullptr);
    EXPECT_NE(find_staging(host, gpu()), nullptr);
    EXPECT_NE(find_staging(managed, host), nullptr);
    EXPECT_NE(find_staging(host, managed), nullptr);
  }
  EXPECT_NE(find_staging(gpu(), gpu()), nullptr);
  EXPECT_NE(find_staging(managed, managed), nullptr);
}

TEST_F(CudaStagingBackend, ConnectsNothingElse) {
  const Device cpu(DeviceType::cpu);
  const Device far(DeviceType::cuda, 63);  // no machine has so many
  const Device opencl(DeviceType::opencl);
  EXPECT_EQ(find_staging(gpu(), far), nullptr);
  EXPECT_EQ(find_staging(far, cpu), nullptr);
  EXPECT_EQ(find_staging(cpu, far), nullptr);
  EXPECT_EQ(find_staging(cpu, cpu), nullptr);
  EXPECT_EQ(find_staging(opencl, cpu), nullptr);
  EXPECT_EQ(find_staging(gpu(), opencl), nullptr);
}

TEST_F(CudaStagingBackend, RegistersOnce) {
  StagingBackend* first = find_staging(gpu(), Device(DeviceType::cpu));
  ASSERT_NE(first, nullptr);
  cuda::register_cuda_staging();
  EXPECT_EQ(find_staging(gpu(), Device(DeviceType::cpu)), first);
  unregister_staging(*first);
  EXPECT_EQ(find_staging(gpu(), Device(DeviceType::cpu)), nullptr);
  register_staging(*first);
}

TEST_F(CudaStagingBackend, CopiesEachWay) {
  const Bytes content = pattern(64, 3);
  Bytes source = content;
  Bytes target(64, kPoison);
  const test::Shaped shaped({64}, {1}, test::kUint8);
  std::vector<TensorView> steps(4, shaped.view());
  steps[0].data = source.data();
  steps[1].data = backend().allocate(64);
  steps[2].data = backend().allocate(64);
  steps[3].data = target.data();
  steps[1].device = steps[2].device = gpu();
  for (size_t i = 0; i + 1 < steps.size(); ++i) {
    StagingBackend* staging = find_staging(steps[i].device, steps[i + 1].device);
    ASSERT_NE(staging, nullptr);
    staging->copy(steps[i], steps[i + 1], stream());
  }
  EXPECT_EQ(target, content);
}

TEST_F(CudaStagingBackend, MakesPlansStage) {
  test::Shaped source({4, 4});
  source.fields().device = gpu();
  const Plan down = plan(source.view(), test::numpy_like(), {.device = Device(DeviceType::cpu)});
  EXPECT_EQ(down.verdict, Verdict::stage);
  EXPECT_TRUE(down.stages);
  EXPECT_EQ(down.bytes, 64);
  source.fields().device = Device(DeviceType::cpu);
  const Plan up = plan(source.view(), test::torch_like(), {.device = gpu()});
  EXPECT_EQ(up.verdict, Verdict::stage);
  source.fields().device = Device(DeviceType::cuda, 63);
  const Plan none = plan(source.view(), test::numpy_like(), {.device = Device(DeviceType::cpu)});
  EXPECT_EQ(none.verdict, Verdict::refuse);
  EXPECT_EQ(none.reasons, ReasonSet(ErrorCode::no_staging));
}

}  // namespace
}  // namespace dlbridge::contract
