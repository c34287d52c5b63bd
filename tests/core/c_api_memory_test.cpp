// SPDX-License-Identifier: Apache-2.0
// The C ABI without memory: each function runs again and again, the n-th allocation failing, until
// it needs no more of them. Every failure is a status, and nothing was consumed.
//
// This program replaces malloc for its whole process, which is why it is one of its own.
#include "dlbridge/c_api.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>

#include "producer.h"

namespace {

// Counts down to the allocation that fails; negative: none does.
thread_local int allocations_left = -1;

}  // namespace

extern "C" void* __libc_malloc(size_t bytes);
extern "C" __attribute__((visibility("default"))) void* malloc(size_t bytes) {
  if (allocations_left >= 0 && allocations_left-- == 0) return nullptr;
  return __libc_malloc(bytes);
}

namespace dlbridge {
namespace {

using test::LegacyProducer;
using test::VersionedProducer;

// Runs `call` with the first allocation failing, then the second … until it succeeds; returns how
// often it failed.
int fail_each_allocation(const std::function<dlb_status()>& call,
                         const std::function<void()>& check) {
  for (int n = 0; n < 1000; ++n) {
    allocations_left = n;
    const dlb_status status = call();
    const bool reached = allocations_left < 0;
    allocations_left = -1;
    if (!reached) {
      EXPECT_EQ(status, DLBRIDGE_OK);
      return n;
    }
    EXPECT_EQ(status, DLBRIDGE_OUT_OF_MEMORY) << n;
    dlb_error error{};
    error.struct_size = sizeof error;
    EXPECT_EQ(dlb_last_error(&error), DLBRIDGE_OK);
    EXPECT_STREQ(error.code, "out_of_memory");
    check();
  }
  ADD_FAILURE() << "never succeeded";
  return -1;
}

class CApiMemory : public ::testing::Test {
 protected:
  // Above Loan's inline rank, so that describing allocates, too.
  template <typename Managed>
  static void widen(test::Producer<Managed>& producer) {
    producer.set_layout(std::vector<int64_t>(9, 1), std::vector<int64_t>(9, 1));
  }
};

TEST_F(CApiMemory, AdoptConsumesNothing) {
  VersionedProducer producer;
  widen(producer);
  dlb_tensor* tensor = nullptr;
  const int failures = fail_each_allocation([&] { return dlb_adopt(producer.get(), &tensor); },
                                            [&] {
                                              EXPECT_EQ(tensor, nullptr);
                                              EXPECT_EQ(producer.deletions(), 0);
                                            });
  EXPECT_GE(failures, 2);
  dlb_tensor_release(tensor);
  EXPECT_EQ(producer.deletions(), 1);
}

TEST_F(CApiMemory, ExportKeepsTheHandle) {
  VersionedProducer producer;
  widen(producer);
  dlb_tensor* tensor = nullptr;
  ASSERT_EQ(dlb_adopt(producer.get(), &tensor), DLBRIDGE_OK);
  DLManagedTensorVersioned* exported = nullptr;
  const int failures = fail_each_allocation([&] { return dlb_export(tensor, &exported); },
                                            [&] { EXPECT_EQ(exported, nullptr); });
  EXPECT_GE(failures, 2);
  dlb_tensor_release(tensor);
  EXPECT_EQ(producer.deletions(), 0);
  exported->deleter(exported);
  EXPECT_EQ(producer.deletions(), 1);
}

TEST_F(CApiMemory, ConversionsConsumeNothing) {
  LegacyProducer producer;
  widen(producer);
  DLManagedTensorVersioned* versioned = nullptr;
  int failures = fail_each_allocation(
      [&] { return dlb_to_versioned(producer.get(), DLBRIDGE_ACCESS_WRITABLE, &versioned); },
      [&] {
        EXPECT_EQ(versioned, nullptr);
        EXPECT_EQ(producer.deletions(), 0);
      });
  EXPECT_GE(failures, 2);
  DLManagedTensor* legacy = nullptr;
  failures = fail_each_allocation([&] { return dlb_to_legacy(versioned, &legacy); },
                                  [&] {
                                    EXPECT_EQ(legacy, nullptr);
                                    EXPECT_EQ(producer.deletions(), 0);
                                  });
  EXPECT_GE(failures, 2);
  legacy->deleter(legacy);
  EXPECT_EQ(producer.deletions(), 1);
}

TEST_F(CApiMemory, ReadersReturnAStatus) {
  VersionedProducer producer;
  widen(producer);
  producer.get()->flags = kReadOnly;
  const DLDataType dtype{2, 32, 1};
  dlb_traits traits{};
  traits.struct_size = sizeof traits;
  traits.name = "a target whose name does not fit into a small string";
  traits.dtypes = &dtype;
  traits.dtype_count = 1;
  traits.max_ndim = 9;
  traits.devices = 2;
  char message[16];
  dlb_plan_result result{};
  result.struct_size = sizeof result;
  result.message = message;
  result.message_capacity = sizeof message;
  EXPECT_GE(fail_each_allocation(
                [&] { return dlb_plan(producer.get(), &traits, nullptr, &result); }, [] {}),
            3);
  EXPECT_EQ(result.verdict, DLBRIDGE_REFUSE);
  dlb_description description{};
  description.struct_size = sizeof description;
  EXPECT_GE(fail_each_allocation([&] { return dlb_describe(producer.get(), &description); }, [] {}),
            1);
}

}  // namespace
}  // namespace dlbridge
