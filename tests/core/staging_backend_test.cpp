// SPDX-License-Identifier: Apache-2.0
// The registry of staging backends: the newest that connects two places answers, and a plan stages
// only where one does.
#include "dlbridge/staging_backend.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "dlbridge/plan.h"
#include "shaped.h"
#include "traits.h"

namespace dlbridge {
namespace {

using test::Shaped;

const Device kCpu(DeviceType::cpu);
const Device kGpu(DeviceType::cuda, 0);

// Connects one pair of places, and moves nothing.
class FakeBackend final : public StagingBackend {
 public:
  FakeBackend(Device from, Device to) : from_(from), to_(to) {}
  bool connects(Device from, Device to) const noexcept override {
    return from == from_ && to == to_;
  }
  void copy(const TensorView&, const TensorView&, Stream) override {}

 private:
  Device from_;
  Device to_;
};

// Registered for the life of a scope.
class Registered {
 public:
  explicit Registered(StagingBackend& backend) : backend_(backend) { register_staging(backend); }
  ~Registered() { unregister_staging(backend_); }
  Registered(const Registered&) = delete;
  Registered& operator=(const Registered&) = delete;

 private:
  StagingBackend& backend_;
};

Plan stage_to_cpu() {
  Shaped source({4, 4});
  source.fields().device = kGpu;
  return plan(source.view(), test::numpy_like(), {.device = kCpu});
}

TEST(StagingBackend, NoneIsRegistered) { EXPECT_EQ(find_staging(kGpu, kCpu), nullptr); }

TEST(StagingBackend, IsFoundWhileRegistered) {
  FakeBackend backend(kGpu, kCpu);
  {
    const Registered scope(backend);
    EXPECT_EQ(find_staging(kGpu, kCpu), &backend);
    EXPECT_EQ(find_staging(kCpu, kGpu), nullptr);
  }
  EXPECT_EQ(find_staging(kGpu, kCpu), nullptr);
}

TEST(StagingBackend, NewestIsAskedFirst) {
  FakeBackend old_one(kGpu, kCpu);
  FakeBackend new_one(kGpu, kCpu);
  const Registered first(old_one);
  {
    const Registered second(new_one);
    EXPECT_EQ(find_staging(kGpu, kCpu), &new_one);
  }
  EXPECT_EQ(find_staging(kGpu, kCpu), &old_one);
}

TEST(StagingBackend, SkipsUnconnected) {
  FakeBackend fits(kGpu, kCpu);
  FakeBackend other(kCpu, kGpu);
  const Registered first(fits);
  const Registered second(other);
  EXPECT_EQ(find_staging(kGpu, kCpu), &fits);
}

TEST(StagingBackend, UnregistersUnknown) {
  FakeBackend stranger(kGpu, kCpu);
  unregister_staging(stranger);
  EXPECT_EQ(find_staging(kGpu, kCpu), nullptr);
}

TEST(StagingBackend, PlanStages) {
  FakeBackend backend(kGpu, kCpu);
  const Registered scope(backend);
  const Plan decision = stage_to_cpu();
  EXPECT_EQ(decision.verdict, Verdict::stage);
  EXPECT_TRUE(decision.stages);
  EXPECT_TRUE(decision.reasons.empty());
  EXPECT_EQ(decision.bytes, 64);
}

TEST(StagingBackend, PlanRefusesWithoutOne) {
  FakeBackend wrong_way(kCpu, kGpu);
  const Registered scope(wrong_way);
  const Plan decision = stage_to_cpu();
  EXPECT_EQ(decision.verdict, Verdict::refuse);
  EXPECT_EQ(decision.reasons, ReasonSet(ErrorCode::no_staging));
}

TEST(StagingBackend, FindsWhileOthersRegister) {
  FakeBackend steady(kGpu, kCpu);
  const Registered scope(steady);
  std::atomic<bool> done{false};
  std::atomic<int> missed{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      while (!done) missed += find_staging(kGpu, kCpu) == nullptr;
    });
  }
  for (int i = 0; i < 500; ++i) {
    FakeBackend passing(kCpu, kGpu);
    const Registered other(passing);
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(missed, 0);
}

}  // namespace
}  // namespace dlbridge
