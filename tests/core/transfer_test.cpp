// The registry of Transfers: the newest that connects two places answers, and a plan stages only
// where one does.
#include "dlbridge/transfer.h"

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
class FakeTransfer final : public Transfer {
 public:
  FakeTransfer(Device from, Device to) : from_(from), to_(to) {}
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
  explicit Registered(Transfer& transfer) : transfer_(transfer) { register_transfer(transfer); }
  ~Registered() { unregister_transfer(transfer_); }
  Registered(const Registered&) = delete;
  Registered& operator=(const Registered&) = delete;

 private:
  Transfer& transfer_;
};

Plan stage_to_cpu() {
  Shaped source({4, 4});
  source.fields().device = kGpu;
  return plan(source.view(), test::numpy_like(), {.device = kCpu});
}

TEST(Transfer, NoneIsFoundWhereNoneIsRegistered) { EXPECT_EQ(find_transfer(kGpu, kCpu), nullptr); }

TEST(Transfer, IsFoundWhileRegistered) {
  FakeTransfer transfer(kGpu, kCpu);
  {
    const Registered scope(transfer);
    EXPECT_EQ(find_transfer(kGpu, kCpu), &transfer);
    EXPECT_EQ(find_transfer(kCpu, kGpu), nullptr);
  }
  EXPECT_EQ(find_transfer(kGpu, kCpu), nullptr);
}

TEST(Transfer, TheNewestIsAskedFirst) {
  FakeTransfer old_one(kGpu, kCpu);
  FakeTransfer new_one(kGpu, kCpu);
  const Registered first(old_one);
  {
    const Registered second(new_one);
    EXPECT_EQ(find_transfer(kGpu, kCpu), &new_one);
  }
  EXPECT_EQ(find_transfer(kGpu, kCpu), &old_one);
}

TEST(Transfer, OneThatDoesNotConnectIsPassedOver) {
  FakeTransfer fits(kGpu, kCpu);
  FakeTransfer other(kCpu, kGpu);
  const Registered first(fits);
  const Registered second(other);
  EXPECT_EQ(find_transfer(kGpu, kCpu), &fits);
}

TEST(Transfer, UnregisteringAnUnknownOneIsIgnored) {
  FakeTransfer stranger(kGpu, kCpu);
  unregister_transfer(stranger);
  EXPECT_EQ(find_transfer(kGpu, kCpu), nullptr);
}

TEST(Transfer, PlanStagesWhereOneIsRegistered) {
  FakeTransfer transfer(kGpu, kCpu);
  const Registered scope(transfer);
  const Plan decision = stage_to_cpu();
  EXPECT_EQ(decision.verdict, Verdict::stage);
  EXPECT_TRUE(decision.stages);
  EXPECT_TRUE(decision.reasons.empty());
  EXPECT_EQ(decision.bytes, 64);
}

TEST(Transfer, PlanRefusesWhereNoneIs) {
  FakeTransfer wrong_way(kCpu, kGpu);
  const Registered scope(wrong_way);
  const Plan decision = stage_to_cpu();
  EXPECT_EQ(decision.verdict, Verdict::refuse);
  EXPECT_EQ(decision.reasons, ReasonSet(ErrorCode::no_transfer));
}

TEST(Transfer, MayBeLookedUpWhileOthersRegister) {
  FakeTransfer steady(kGpu, kCpu);
  const Registered scope(steady);
  std::atomic<bool> done{false};
  std::atomic<int> missed{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      while (!done) missed += find_transfer(kGpu, kCpu) == nullptr;
    });
  }
  for (int i = 0; i < 500; ++i) {
    FakeTransfer passing(kCpu, kGpu);
    const Registered other(passing);
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(missed, 0);
}

}  // namespace
}  // namespace dlbridge
