// SPDX-License-Identifier: Apache-2.0
// to_guarded_tensor: a write raises, or copies the memory once; exports; who releases the memory.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "counted_memory.h"
#include "dlbridge/plan.h"
#include "dlbridge/torch.h"

namespace dlbridge {
namespace {

using test::CountedMemory;
using test::storage_of;

TEST(GuardedTensor, RaisesAndStaysGuarded) {
  CountedMemory counted;
  {
    const at::Tensor tensor = to_guarded_tensor(counted.loan(), OnWrite::raise);
    for (int i = 0; i < 2; ++i) EXPECT_ANY_THROW(tensor[3].fill_(1));
    EXPECT_EQ(tensor.const_data_ptr(), counted.data());
    Loan exported = share(tensor);
    EXPECT_EQ(exported.view().access, Access::read_only);
    EXPECT_TRUE(to_guarded_tensor(std::move(exported), OnWrite::raise).is_alias_of(tensor));
    EXPECT_EQ(counted.releases(), 0);
  }
  EXPECT_EQ(counted.releases(), 1);
}

TEST(GuardedTensor, CopiesOnce) {
  if (!torch_traits().copies_on_write) GTEST_SKIP() << "this torch has no materializers";
  CountedMemory counted;
  std::fill_n(counted.data(), 64, uint8_t{1});
  at::Tensor tensor = to_guarded_tensor(counted.loan(), OnWrite::copy);
  Loan before = share(tensor);
  tensor.zero_();
  const void* copy = tensor.const_data_ptr();
  tensor.fill_(2);
  EXPECT_EQ(tensor.const_data_ptr(), copy);
  EXPECT_EQ(counted.data()[0], 1);
  Loan after = share(tensor);
  EXPECT_EQ(after.view().access, Access::writable);
  EXPECT_EQ(after.view().data, copy);
  EXPECT_EQ(before.view().data, counted.data());
  EXPECT_FALSE(to_tensor(std::move(before)).is_alias_of(tensor));
  tensor.reset();
  EXPECT_EQ(counted.releases(), 0);  // the copy still has an owner
  after.reset();
  EXPECT_EQ(counted.releases(), 1);
}

TEST(GuardedTensor, ThreadsThatWriteFirstCopyOnce) {
  if (!torch_traits().copies_on_write) GTEST_SKIP() << "this torch has no materializers";
  for (int round = 0; round < 50; ++round) {
    CountedMemory counted;
    const at::Tensor tensor = to_guarded_tensor(counted.loan(), OnWrite::copy);
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i)
      threads.emplace_back([part = tensor.narrow(0, 2 * i, 2), i] { part.fill_(i + 1); });
    for (std::thread& thread : threads) thread.join();
    for (int i = 0; i < 16; ++i) EXPECT_EQ(tensor[i].item<float>(), i / 2 + 1);
  }
}

TEST(GuardedTensor, ReplacesItsMemoryWithoutACopy) {
  if (!torch_traits().copies_on_write) GTEST_SKIP() << "this torch has no materializers";
  set_write_refusal(nullptr, [] { return true; });
  for (const OnWrite on_write : {OnWrite::raise, OnWrite::copy}) {
    CountedMemory counted;
    const at::Tensor tensor = to_guarded_tensor(counted.loan(), on_write);
    at::DataPtr before = storage_of(tensor).set_data_ptr(at::getCPUAllocator()->allocate(64));
    EXPECT_EQ(before.get(), counted.data());
    tensor.fill_(1);
    EXPECT_EQ(share(tensor).view().access, Access::writable);
    before.clear();
    EXPECT_EQ(counted.releases(), 1);
  }
  set_write_refusal(nullptr);
}

TEST(GuardedTensor, HasNoGuardWithoutElements) {
  CountedMemory counted;
  to_guarded_tensor(counted.loan({0, 4}), OnWrite::raise).add_(1);
  EXPECT_EQ(counted.releases(), 1);
}

}  // namespace
}  // namespace dlbridge
