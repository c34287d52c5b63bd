// The module as core's Transfer: what it connects, and what plans make of it.
#include "contract_test.h"
#include "dlbridge/plan.h"
#include "traits.h"

namespace dlbridge::contract {
namespace {

class CudaTransfer : public Contract {
 protected:
  void SetUp() override {
    Contract::SetUp();
    cuda::register_cuda_transfer();
  }
};

TEST_F(CudaTransfer, ConnectsHostAndDevice) {
  const Device managed(DeviceType::cuda_managed, gpu().id());
  for (const DeviceType type : {DeviceType::cpu, DeviceType::cuda_host}) {
    const Device host(type);
    EXPECT_NE(find_transfer(gpu(), host), nullptr);
    EXPECT_NE(find_transfer(host, gpu()), nullptr);
    EXPECT_NE(find_transfer(managed, host), nullptr);
    EXPECT_NE(find_transfer(host, managed), nullptr);
  }
  EXPECT_NE(find_transfer(gpu(), gpu()), nullptr);
  EXPECT_NE(find_transfer(managed, managed), nullptr);
}

TEST_F(CudaTransfer, ConnectsNothingElse) {
  const Device cpu(DeviceType::cpu);
  const Device far(DeviceType::cuda, 63);  // no machine has so many
  const Device opencl(DeviceType::opencl);
  EXPECT_EQ(find_transfer(gpu(), far), nullptr);
  EXPECT_EQ(find_transfer(far, cpu), nullptr);
  EXPECT_EQ(find_transfer(cpu, far), nullptr);
  EXPECT_EQ(find_transfer(cpu, cpu), nullptr);
  EXPECT_EQ(find_transfer(opencl, cpu), nullptr);
  EXPECT_EQ(find_transfer(gpu(), opencl), nullptr);
}

TEST_F(CudaTransfer, RegistersOnce) {
  Transfer* first = find_transfer(gpu(), Device(DeviceType::cpu));
  ASSERT_NE(first, nullptr);
  cuda::register_cuda_transfer();
  EXPECT_EQ(find_transfer(gpu(), Device(DeviceType::cpu)), first);
  unregister_transfer(*first);
  EXPECT_EQ(find_transfer(gpu(), Device(DeviceType::cpu)), nullptr);
  register_transfer(*first);
}

TEST_F(CudaTransfer, MakesPlansStage) {
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
  EXPECT_EQ(none.reasons, ReasonSet(ErrorCode::no_transfer));
}

}  // namespace
}  // namespace dlbridge::contract
