// SPDX-License-Identifier: Apache-2.0
// What is promised about time: copies follow what was enqueued before them, and only the calls that
// say so wait.
#include <algorithm>
#include <thread>

#include "contract_test.h"
#include "memory.h"

namespace dlbridge::contract {
namespace {

constexpr int64_t kElements = 50000;

class StagingOrder : public Contract {
 protected:
  void SetUp() override {
    Contract::SetUp();
    if (IsSkipped()) return;
    cuda::register_cuda_staging();
    memory_ = backend().allocate(kBytes);
    backend().write(memory_, Bytes(kBytes, kPoison));
    other_ = backend().allocate(kBytes);
    backend().write(other_, Bytes(kBytes, kPoison));
    warm_up();
  }

  TensorView device_view(void* memory) const {
    TensorView view = shape_.view();
    view.data = memory;
    view.device = gpu();
    return view;
  }
  TensorView host_view(Bytes& bytes) const {
    TensorView view = shape_.view();
    view.data = bytes.data();
    return view;
  }
  void expect_produced(const Loan& result) const {
    const auto* bytes = static_cast<const uint8_t*>(result.view().data);
    EXPECT_TRUE(std::equal(produced_.begin(), produced_.end(), bytes));
  }
  Loan acquire(const TensorView& view) { return test::loan_of(view, released_); }

  static constexpr size_t kBytes = kElements * 4;
  const Bytes produced_ = pattern(kBytes, 7);
  void* memory_ = nullptr;
  void* other_ = nullptr;
  test::ReleaseCounter released_;

 private:
  // The first call of all makes streams, kernels and pinned memory, which may take the device.
  void warm_up() {
    Bytes host(kBytes);
    cuda::stage(device_view(memory_), host_view(host), stream());
    cuda::stage(host_view(host), device_view(memory_), stream());
    backend().synchronize(stream());
  }

  test::Shaped shape_{{kElements / 100, 100}, {1, kElements / 100}};
};

TEST_F(StagingOrder, ToHostIsASnapshot) {
  backend().hold(stream());
  backend().enqueue_write(stream(), memory_, produced_);
  cuda::Future future = cuda::stage_to_host_async(acquire(device_view(memory_)), stream());
  backend().enqueue_write(stream(), memory_, pattern(kBytes, 8));
  EXPECT_FALSE(future.done());
  EXPECT_FALSE(future.wait(0.02));
  EXPECT_EQ(released_.count(), 0);
  backend().go();
  expect_produced(future.result());
}

TEST_F(StagingOrder, DroppedFutureStillCompletes) {
  backend().hold(stream());
  backend().enqueue_write(stream(), memory_, produced_);
  Bytes host(kBytes, kPoison);
  static_cast<void>(
      cuda::stage_async(acquire(device_view(memory_)), acquire(host_view(host)), stream()));
  EXPECT_EQ(released_.count(), 0);
  EXPECT_FALSE(cuda::drain(0.02));
  backend().go();
  EXPECT_TRUE(cuda::drain(10));
  EXPECT_EQ(released_.count(), 2);
  backend().host_reads(host.data(), host.size());
  EXPECT_EQ(host, produced_);
}

TEST_F(StagingOrder, ToDeviceWaitsForConsumer) {
  Bytes host = produced_;
  backend().hold(stream());
  const auto before = backend().enqueue_read(stream(), memory_, kBytes);
  cuda::stage(host_view(host), device_view(memory_), stream());
  std::ranges::fill(host, uint8_t{0xEE});
  const auto after = backend().enqueue_read(stream(), memory_, kBytes);
  backend().go();
  backend().synchronize(stream());
  EXPECT_EQ(*before, Bytes(kBytes, kPoison));
  EXPECT_EQ(*after, produced_);
}

TEST_F(StagingOrder, OnDeviceDoesNotWait) {
  backend().hold(stream());
  backend().enqueue_write(stream(), memory_, produced_);
  find_staging(gpu(), gpu())->copy(device_view(memory_), device_view(other_), stream());
  const auto after = backend().enqueue_read(stream(), other_, kBytes);
  backend().enqueue_write(stream(), memory_, pattern(kBytes, 8));
  backend().go();
  backend().synchronize(stream());
  EXPECT_EQ(*after, produced_);
}

TEST_F(StagingOrder, HeldStreamDelaysNoOther) {
  const Stream other = backend().make_stream();
  backend().hold(stream());
  cuda::Future held = cuda::stage_to_host_async(acquire(device_view(memory_)), stream());
  const Loan result = cuda::stage_to_host(device_view(other_), other);
  Bytes host = produced_;
  cuda::stage(host_view(host), device_view(other_), other);
  const auto after = backend().enqueue_read(other, other_, kBytes);
  backend().synchronize(other);
  EXPECT_EQ(*after, produced_);
  EXPECT_FALSE(held.done());
  backend().go();
  EXPECT_TRUE(held.wait(10));
}

TEST_F(StagingOrder, CopiesIntoOneTargetKeepOrder) {
  Bytes first = pattern(kBytes, 2);
  Bytes second = pattern(kBytes, 3);
  for (Bytes* bytes : {&first, &second}) {
    static_cast<void>(
        cuda::stage_async(acquire(host_view(*bytes)), acquire(device_view(memory_)), stream()));
  }
  const auto after = backend().enqueue_read(stream(), memory_, kBytes);
  backend().synchronize(stream());
  EXPECT_EQ(*after, second);
  EXPECT_TRUE(cuda::drain(10));
}

TEST_F(StagingOrder, RoundTripKeepsOrder) {
  Bytes host = produced_;
  cuda::stage(host_view(host), device_view(memory_), stream());
  expect_produced(cuda::stage_to_host_async(acquire(device_view(memory_)), stream()).result());
}

}  // namespace
}  // namespace dlbridge::contract
