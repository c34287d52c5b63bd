// SPDX-License-Identifier: Apache-2.0
// The library as it is shipped: this program links nothing of the module but its shared library,
// and puts the simulator into it through the one function that is exported for that.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "cuda_sim/simulator.h"
#include "dlbridge/cuda/staging.h"
#include "memory.h"
#include "shaped.h"

namespace dlbridge::cuda {
namespace {

using cuda_sim::Simulator;
using Bytes = std::vector<uint8_t>;

/// A simulator inside the library, for as long as the test runs.
class ShippedLibrary : public testing::Test {
 protected:
  ShippedLibrary() {
    sim_.use_device(1);
    inject_cuda_api(&sim_.api());
  }
  ~ShippedLibrary() override {
    inject_cuda_api(nullptr);
    EXPECT_EQ(sim_.complaint(), "");
    EXPECT_TRUE(sim_.leaks().none()) << sim_.leaks().text();
    sim_.use_no_device();
  }

  /// `bytes` elements on device 1, which `producer` writes when its time comes.
  test::Shaped produced(const Bytes& bytes, cudaStream_t producer) {
    void* memory = sim_.device_alloc(bytes.size());
    sim_.enqueue_write(producer, memory, bytes);
    test::Shaped shaped({static_cast<int64_t>(bytes.size())}, {1}, test::kUint8, memory);
    shaped.fields().device = {kDLCUDA, 1};
    return shaped;
  }

  static Bytes pattern(size_t count) {
    test::GuardedBuffer buffer(count);
    buffer.fill_with_pattern(7);
    return Bytes(buffer.data(), buffer.data() + count);
  }

  static Bytes bytes_of(const Loan& loan) {
    const auto* first = static_cast<const uint8_t*>(loan.view().data);
    return Bytes(first, first + loan.view().nbytes());
  }

  Simulator sim_{{.schedule = cuda_sim::Schedule::lazy}};
};

TEST_F(ShippedLibrary, ToHostAfterProducer) {
  const cudaStream_t producer = sim_.make_stream(cudaStreamNonBlocking);
  for (const size_t count : {size_t{100}, size_t{3} << 20}) {
    const Bytes expected = pattern(count);
    const test::Shaped source = produced(expected, producer);
    {
      const Loan result = stage_to_host(source.view(), stream_of(1, producer));
      EXPECT_EQ(bytes_of(result), expected);
      EXPECT_EQ(result.view().device.device_type, kDLCPU);
    }
    ASSERT_TRUE(drain(10));
    sim_.synchronize(producer);
    sim_.device_free(source.view().data);
  }
}

TEST_F(ShippedLibrary, ToDeviceBeforeConsumer) {
  const cudaStream_t consumer = sim_.make_stream(cudaStreamNonBlocking);
  Bytes expected = pattern(3 << 20);
  const auto count = static_cast<int64_t>(expected.size());
  void* memory = sim_.device_alloc(expected.size());
  test::Shaped target({count}, {1}, test::kUint8, memory);
  target.fields().device = {kDLCUDA, 1};
  const test::Shaped source({count}, {1}, test::kUint8, expected.data());
  stage_to_device(source.view(), target.view(), stream_of(1, consumer));
  const auto seen = sim_.enqueue_read(consumer, memory, expected.size());
  sim_.synchronize(consumer);
  EXPECT_EQ(*seen, expected);
  ASSERT_TRUE(drain(10));
  sim_.finish();
  sim_.device_free(memory);
}

TEST_F(ShippedLibrary, ThrowsWhatCallersCanCatch) {
  const cudaStream_t producer = sim_.make_stream(cudaStreamNonBlocking);
  const test::Shaped source = produced(pattern(100), producer);
  try {
    (void)stage_to_host(source.view(), stream_of(1, intptr_t{0}));
    ADD_FAILURE() << "stream 0 is either of two streams";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::stream_invalid);
  }
  sim_.synchronize(producer);
  sim_.device_free(source.view().data);
}

TEST(ShippedLibraryWithoutDriver, SaysSo) {
  Simulator sim({.driver = cuda_sim::Driver::absent});
  inject_cuda_api(&sim.api());
  const Availability found = availability();
  inject_cuda_api(nullptr);
  EXPECT_FALSE(found.usable);
  EXPECT_EQ(found.reason, ErrorCode::no_driver);
}

}  // namespace
}  // namespace dlbridge::cuda
