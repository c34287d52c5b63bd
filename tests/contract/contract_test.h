// SPDX-License-Identifier: Apache-2.0
// Contract: a test with a device. Skipped, with the reason, where there is none; when it ends,
// nothing may be left that the device's implementation objects to.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "backend.h"
#include "dlbridge/cuda/staging.h"
#include "layouts.h"
#include "ways.h"

namespace dlbridge::contract {

class Contract : public testing::Test {
 protected:
  void SetUp() override { begin(0); }

  void begin(uint64_t seed) {
    MadeBackend made = make_backend(seed);
    if (made.backend == nullptr) GTEST_SKIP() << made.reason;
    backend_ = std::move(made.backend);
    stream_ = backend_->make_stream();
  }

  void TearDown() override {
    if (backend_ == nullptr) return;
    EXPECT_EQ(backend_->end(), "");
    backend_.reset();
  }

  Backend& backend() { return *backend_; }
  /// A stream of the tests' producer and consumer.
  Stream stream() const { return stream_; }
  Stream numbered(intptr_t number) const {
    return cuda::stream_of(stream_.device.device_id, number);
  }
  Device gpu() const { return Device(DeviceType::cuda, stream_.device.device_id); }

 private:
  std::unique_ptr<Backend> backend_;
  Stream stream_{};
};

template <typename Parameter>
class ContractOf : public Contract, public testing::WithParamInterface<Parameter> {};

}  // namespace dlbridge::contract
