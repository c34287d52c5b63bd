// SPDX-License-Identifier: Apache-2.0
// dlb_stage: the registered StagingBackend does the copy, what it is given was checked, and its
// errors become statuses of their own.
#include <gtest/gtest.h>

#include <functional>
#include <new>
#include <string>
#include <vector>

#include "c_calls.h"
#include "dlbridge/c_api.h"
#include "dlbridge/copy.h"
#include "dlbridge/staging_backend.h"
#include "producer.h"

namespace dlbridge {
namespace {

using test::expect_failure;
using test::last_error;
using test::poison;
using test::VersionedProducer;

// Connects CUDA device 3, of which the test's own memory pretends to be part, with the host.
class FakeBackend final : public StagingBackend {
 public:
  FakeBackend() { register_staging(*this); }
  ~FakeBackend() override { unregister_staging(*this); }

  bool connects(Device from, Device to) const noexcept override {
    const Device gpu(DeviceType::cuda, 3);
    if (to_host_only && !to.is_host()) return false;
    return (from == gpu && to.is_host()) || (from.is_host() && to == gpu) ||
           (from == gpu && to == gpu);
  }
  void copy(const TensorView& source, const TensorView& target, Stream stream) override {
    ++calls;
    last_stream = stream;
    if (fail) fail();
    TensorView from = source;
    TensorView to = target;
    from.device = to.device = {kDLCPU, 0};
    copy_host(from, to);
  }

  bool to_host_only = false;
  int calls = 0;
  Stream last_stream{};
  std::function<void()> fail;
};

class CApiStage : public ::testing::Test {
 protected:
  CApiStage() { std::fill_n(host_.values(), 6, -1.0f), gpu_.tensor().device = {kDLCUDA, 3}; }
  void expect_untouched() {
    EXPECT_EQ(std::vector<float>(host_.values(), host_.values() + 6), std::vector<float>(6, -1.0f));
    EXPECT_EQ(backend_.calls, 0);
    EXPECT_EQ(gpu_.deletions() + host_.deletions(), 0);
  }

  FakeBackend backend_;
  VersionedProducer gpu_;
  VersionedProducer host_;
};

TEST_F(CApiStage, CopiesBothWays) {
  host_.set_layout({2, 3}, {1, 2});
  ASSERT_OK(dlb_stage(gpu_.get(), host_.get(), 1));
  const std::vector<float> expected = {0, 3, 1, 4, 2, 5};
  EXPECT_EQ(std::vector<float>(host_.values(), host_.values() + 6), expected);
  std::fill_n(gpu_.values(), 6, -1.0f);
  ASSERT_OK(dlb_stage(host_.get(), gpu_.get(), 1));
  EXPECT_EQ(gpu_.values()[5], 5.0f);
  EXPECT_EQ(backend_.calls, 2);
  EXPECT_EQ(gpu_.deletions() + host_.deletions(), 0);
}

TEST_F(CApiStage, PassesTheDevicesStream) {
  for (const bool to_host : {true, false}) {
    ASSERT_OK(to_host ? dlb_stage(gpu_.get(), host_.get(), -1)
                      : dlb_stage(host_.get(), gpu_.get(), -1));
    EXPECT_EQ(backend_.last_stream.device.device_type, kDLCUDA);
    EXPECT_EQ(backend_.last_stream.device.device_id, 3);
    EXPECT_EQ(reinterpret_cast<intptr_t>(backend_.last_stream.handle), -1);
  }
}

TEST_F(CApiStage, RefusesWithoutBackend) {
  VersionedProducer other;
  other.tensor().device = {kDLCUDA, 4};
  expect_failure(dlb_stage(other.get(), host_.get(), 1), DLBRIDGE_REFUSED, "no_staging", "device");
  EXPECT_STREQ(last_error().message,
               "no registered module copies from cuda:4 to cpu on this machine: register one that "
               "does");
  expect_failure(dlb_stage(other.get(), gpu_.get(), 1), DLBRIDGE_REFUSED, "no_staging", "device");
  VersionedProducer second_host;
  expect_failure(dlb_stage(second_host.get(), host_.get(), 1), DLBRIDGE_REFUSED, "no_staging",
                 "device");
  EXPECT_NE(std::string(last_error().message).find("dlb_copy does"), std::string::npos);
  expect_untouched();
}

TEST_F(CApiStage, AsksForTheDirection) {
  backend_.to_host_only = true;
  EXPECT_OK(dlb_stage(gpu_.get(), host_.get(), 1));
  expect_failure(dlb_stage(host_.get(), gpu_.get(), 1), DLBRIDGE_REFUSED, "no_staging", "device");
}

TEST_F(CApiStage, RefusesBeforeCopying) {
  struct Row {
    const char* code;
    std::function<void(VersionedProducer&)> spoil;
  };
  const Row rows[] = {
      {"shape_mismatch", [](auto& d) { d.set_layout({3, 2}, {2, 1}); }},
      {"unsupported_dtype", [](auto& d) { d.tensor().dtype = {0, 32, 1}; }},
      {"read_only", [](auto& d) { d.get()->flags = kReadOnly; }},
      {"overlap", [](auto& d) { d.set_layout({2, 3}, {0, 1}); }},
      {"overlap", [](auto& d) { d.set_layout({2, 3}, {1, 1}); }},
  };
  for (const Row& row : rows) {
    VersionedProducer destination;
    row.spoil(destination);
    EXPECT_EQ(dlb_stage(gpu_.get(), destination.get(), 1), DLBRIDGE_REFUSED) << row.code;
    EXPECT_STREQ(last_error().code, row.code);
  }
  expect_untouched();
}

TEST_F(CApiStage, FindsOverlapOnOneDevice) {
  VersionedProducer same;
  same.tensor().device = {kDLCUDA, 3};
  same.tensor().data = gpu_.values();
  expect_failure(dlb_stage(gpu_.get(), same.get(), 1), DLBRIDGE_REFUSED, "overlap", "data");
  EXPECT_EQ(backend_.calls, 0);
  // The number of a host's address says nothing about the device's.
  host_.tensor().data = gpu_.values();
  EXPECT_OK(dlb_stage(gpu_.get(), host_.get(), 1));
  EXPECT_EQ(backend_.calls, 1);
}

TEST_F(CApiStage, ChecksBothDescriptors) {
  expect_failure(dlb_stage(nullptr, host_.get(), 1), DLBRIDGE_INVALID_DESCRIPTOR, "null_descriptor",
                 "descriptor");
  expect_failure(dlb_stage(gpu_.get(), nullptr, 1), DLBRIDGE_INVALID_DESCRIPTOR, "null_descriptor",
                 "descriptor");
  gpu_.tensor().ndim = -1;
  expect_failure(dlb_stage(gpu_.get(), host_.get(), 1), DLBRIDGE_INVALID_DESCRIPTOR, "invalid_ndim",
                 "ndim");
  expect_failure(dlb_stage(host_.get(), gpu_.get(), 1), DLBRIDGE_INVALID_DESCRIPTOR, "invalid_ndim",
                 "ndim");
  gpu_.get()->version.major = 2;
  gpu_.tensor().shape = poison<int64_t>();
  EXPECT_EQ(dlb_stage(gpu_.get(), host_.get(), 1), DLBRIDGE_UNSUPPORTED_VERSION);
  expect_untouched();
}

TEST_F(CApiStage, MapsErrorsToStatuses) {
  struct Row {
    ErrorCode code;
    dlb_status status;
  };
  const Row rows[] = {
      {ErrorCode::no_driver, DLBRIDGE_UNAVAILABLE},
      {ErrorCode::driver_too_old, DLBRIDGE_UNAVAILABLE},
      {ErrorCode::no_device, DLBRIDGE_UNAVAILABLE},
      {ErrorCode::device_failed, DLBRIDGE_DEVICE_FAILED},
      {ErrorCode::after_fork, DLBRIDGE_DEVICE_FAILED},
      {ErrorCode::stream_invalid, DLBRIDGE_INVALID_ARGUMENT},
      {ErrorCode::stream_capturing, DLBRIDGE_REFUSED},
      {ErrorCode::out_of_memory, DLBRIDGE_OUT_OF_MEMORY},
  };
  for (const Row& row : rows) {
    backend_.fail = [&] { throw Error(row.code, "somewhere", "the backend's own words"); };
    expect_failure(dlb_stage(gpu_.get(), host_.get(), 1), row.status, std::string(name(row.code)),
                   "somewhere");
    EXPECT_STREQ(last_error().message, "the backend's own words");
  }
  backend_.fail = [] { throw std::bad_alloc(); };
  EXPECT_EQ(dlb_stage(gpu_.get(), host_.get(), 1), DLBRIDGE_OUT_OF_MEMORY);
  backend_.fail = [] { throw 7; };
  EXPECT_EQ(dlb_stage(gpu_.get(), host_.get(), 1), DLBRIDGE_INTERNAL_ERROR);
  EXPECT_EQ(gpu_.deletions() + host_.deletions(), 0);
}

TEST_F(CApiStage, ReadsReadOnlySources) {
  gpu_.get()->flags = kReadOnly;
  dlb_tensor* tensor = nullptr;
  ASSERT_OK(dlb_adopt(gpu_.get(), &tensor));
  const DLManagedTensorVersioned* source = nullptr;
  ASSERT_OK(dlb_tensor_borrow(tensor, &source));
  EXPECT_OK(dlb_stage(source, host_.get(), 1));
  EXPECT_EQ(host_.values()[5], 5.0f);
  expect_failure(dlb_stage(host_.get(), source, 1), DLBRIDGE_REFUSED, "read_only", "flags");
  dlb_tensor_release(tensor);
  EXPECT_EQ(gpu_.deletions(), 1);
}

}  // namespace
}  // namespace dlbridge
