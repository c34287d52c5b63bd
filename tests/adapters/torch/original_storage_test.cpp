// SPDX-License-Identifier: Apache-2.0
// The original storage: memory that was exported from a torch storage becomes a tensor over that
// very storage again, if it lives and still holds the bytes; every holder's end is counted.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <barrier>
#include <ostream>
#include <thread>
#include <vector>

#include "counted_memory.h"
#include "dlbridge/torch.h"
#include "memory.h"
#include "shaped.h"

namespace dlbridge {
namespace {

using test::CountedMemory;
using test::Dims;
using test::GuardedBuffer;
using test::kFloat32;
using test::kFloat64;
using test::kUint8;
using test::make_loan;
using test::ReleaseCounter;
using test::storage_of;

enum class Maker { torch, dlbridge };

std::ostream& operator<<(std::ostream& out, Maker maker) {
  return out << (maker == Maker::torch ? "torch" : "dlbridge");
}

// The original storage is found by a weak reference to a storage of torch's making, and by an
// understanding between bytes and storage where we made both.
class ReuseStorage : public testing::TestWithParam<Maker> {
 protected:
  // A tensor over foreign bytes that counts how often torch gives them back.
  static at::Tensor counted_tensor(GuardedBuffer& buffer, ReleaseCounter& counter) {
    const Deleter deleter = counter.deleter();
    const auto size = static_cast<int64_t>(buffer.size());
    if (GetParam() == Maker::dlbridge)
      return to_tensor(make_loan({size}, {1}, kUint8, buffer.data(), deleter));
    return at::from_blob(
        buffer.data(), {size}, [deleter](void*) { deleter.release(deleter.context); }, at::kByte);
  }
  // Gives the storage the bytes of the tensor that is returned, which has the former ones.
  at::Tensor replace_bytes() {
    const at::Tensor other = at::ones({64}, at::kByte);
    storage_of(source_).swap_data_ptr(storage_of(other));
    return other;
  }

  GuardedBuffer buffer_{64};
  ReleaseCounter counter_;
  at::Tensor source_ = counted_tensor(buffer_, counter_);
};

INSTANTIATE_TEST_SUITE_P(OfStorages, ReuseStorage, testing::Values(Maker::torch, Maker::dlbridge),
                         testing::PrintToStringParamName());

TEST_P(ReuseStorage, IsTheSameStorage) {
  at::Tensor back = to_tensor(share(source_));
  EXPECT_EQ(&storage_of(back), &storage_of(source_));
  EXPECT_TRUE(back.is_alias_of(source_));
  EXPECT_FALSE(back.is_same(source_));
  EXPECT_EQ(back.sizes(), source_.sizes());
  source_.reset();
  EXPECT_EQ(counter_.count(), 0);
  EXPECT_TRUE(buffer_.guards_intact());
  back.reset();
  EXPECT_EQ(counter_.count(), 1);
}

TEST(AnyReuseStorage, ReleasesTheLoan) {
  const at::Tensor source = at::zeros({4});
  const size_t before = source.storage().use_count();
  ReleaseCounter hop;  // a framework in between that holds the export
  Loan held = share(source);
  Loan loan = make_loan({4}, {1}, kFloat32, held.view().data, hop.deleter());
  loan.original = held.original;
  at::Tensor back = to_tensor(std::move(loan));
  EXPECT_EQ(hop.count(), 1);
  EXPECT_FALSE(loan.owns_memory());
  EXPECT_EQ(&storage_of(back), &storage_of(source));
  EXPECT_EQ(source.storage().use_count(), before + 1);
  back.reset();
  EXPECT_EQ(hop.count(), 1);
  EXPECT_EQ(source.storage().use_count(), before);
}

TEST(AnyReuseStorage, KeepsLayouts) {
  const at::Tensor source = at::arange(24, at::kInt).reshape({4, 6});
  for (const at::Tensor& view : {source, source.t(), source.slice(1, 1, 6, 2), source.select(0, 2),
                                 source.narrow(0, 3, 1).narrow(1, 5, 1), source.narrow(0, 1, 0),
                                 source.select(0, 1).expand({3, 6})}) {
    const at::Tensor back = to_tensor(share(view));
    EXPECT_EQ(&storage_of(back), &storage_of(source));
    EXPECT_EQ(back.sizes(), view.sizes());
    EXPECT_EQ(back.strides(), view.strides());
    EXPECT_EQ(back.storage_offset(), view.storage_offset());
    EXPECT_TRUE(back.equal(view));
  }
}

TEST(AnyReuseStorage, TakesOtherDtypes) {
  const at::Tensor source = at::zeros({64}, at::kByte);
  Loan loan = share(source.narrow(0, 16, 16));
  loan.view().dtype = kFloat64;
  loan.shape()[0] = 2;
  const at::Tensor back = to_tensor(std::move(loan));
  EXPECT_EQ(&storage_of(back), &storage_of(source));
  EXPECT_EQ(back.storage_offset(), 2);
  EXPECT_EQ(back.scalar_type(), at::kDouble);
}

TEST_P(ReuseStorage, NeedsDivisibleOffsets) {
  GuardedBuffer buffer(64, 4);  // so that offset 4 is aligned to 8 bytes and yet not divisible
  ReleaseCounter counter;
  at::Tensor source = counted_tensor(buffer, counter);
  Loan loan = share(source.narrow(0, 4, 16));
  loan.view().dtype = kFloat64;
  loan.shape()[0] = 2;
  at::Tensor back = to_tensor(std::move(loan));
  EXPECT_NE(&storage_of(back), &storage_of(source));
  EXPECT_EQ(back.data_ptr(), buffer.data() + 4);
  EXPECT_EQ(back.numel(), 2);
  source.reset();
  back.fill_(1.0);
  EXPECT_EQ(counter.count(), 0);
  EXPECT_TRUE(buffer.guards_intact());
  back.reset();
  EXPECT_EQ(counter.count(), 1);
}

TEST_P(ReuseStorage, EndsWithOtherBytes) {
  Loan loan = share(source_);
  const at::Tensor other = replace_bytes();
  at::Tensor back = to_tensor(std::move(loan));
  EXPECT_NE(&storage_of(back), &storage_of(source_));
  EXPECT_EQ(back.data_ptr(), buffer_.data());
}

TEST_P(ReuseStorage, EndsWithoutOwnership) {
  Loan loan = share(source_);
  // The same address without an original storage.
  (void)storage_of(source_).set_data_ptr(at::DataPtr(buffer_.data(), c10::Device(c10::kCPU)));
  at::Tensor back = to_tensor(std::move(loan));
  EXPECT_NE(&storage_of(back), &storage_of(source_));
  EXPECT_EQ(counter_.count(), 0);
  back.reset();
  EXPECT_EQ(counter_.count(), 1);
}

TEST_P(ReuseStorage, EndsWithTheStorage) {
  GuardedBuffer buffer(64);
  ReleaseCounter counter;
  at::Tensor back = to_tensor(share(counted_tensor(buffer, counter)));
  EXPECT_EQ(back.data_ptr(), buffer.data());
  EXPECT_EQ(back[63].item<uint8_t>(), GuardedBuffer::kPoison);
  EXPECT_EQ(counter.count(), 0);
  back.reset();
  EXPECT_EQ(counter.count(), 1);
}

TEST_P(ReuseStorage, NeedsALargeStorage) {
  Loan loan = share(source_);
  storage_of(source_).set_nbytes(63);
  const at::Tensor back = to_tensor(std::move(loan));
  EXPECT_NE(&storage_of(back), &storage_of(source_));
  EXPECT_EQ(storage_of(back).nbytes(), 64u);
}

TEST(AnyReuseStorage, NeedsMemoryInside) {
  const at::Tensor source = at::zeros({8}, at::kByte);
  GuardedBuffer buffer(64);
  ReleaseCounter counter;
  Loan held = share(source);
  Loan loan =
      make_loan({8}, {1}, kUint8, static_cast<char*>(held.view().data) - 8, counter.deleter());
  loan.original = held.original;
  at::Tensor back = to_tensor(std::move(loan));
  EXPECT_NE(&storage_of(back), &storage_of(source));
  EXPECT_EQ(counter.count(), 0);
  back.reset();
  EXPECT_EQ(counter.count(), 1);
}

TEST(AnyReuseStorage, IgnoresOtherOriginals) {
  CountedMemory counted;
  ReleaseCounter origin;
  Loan loan = counted.loan();
  loan.original = origin.deleter();
  at::Tensor tensor = to_tensor(std::move(loan));
  EXPECT_EQ(tensor.data_ptr(), counted.data());
  tensor.reset();
  EXPECT_EQ(origin.count(), 0);
  EXPECT_EQ(counted.releases(), 1);
}

TEST(AnyReuseStorage, FindsHeldStorages) {
  auto storage = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), 64,
      at::DataPtr(reinterpret_cast<void*>(uintptr_t{0x10000}), c10::Device(c10::kCUDA, 1)), nullptr,
      false);
  const at::Tensor source = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(std::move(storage)), c10::DispatchKey::CUDA, caffe2::TypeMeta::Make<float>());
  source.unsafeGetTensorImpl()->set_sizes_and_strides(Dims{4}, Dims{1}, 2);
  const size_t before = source.storage().use_count();
  at::Tensor back = to_tensor(share(source));
  EXPECT_EQ(&storage_of(back), &storage_of(source));
  EXPECT_EQ(back.storage_offset(), 2);
  EXPECT_EQ(source.storage().use_count(), before + 1);
  back.reset();
  EXPECT_EQ(source.storage().use_count(), before);
}

TEST_P(ReuseStorage, RoundTripsReleaseOnce) {
  GuardedBuffer buffer(64);
  ReleaseCounter counter;
  at::Tensor tensor = counted_tensor(buffer, counter);
  const c10::StorageImpl* storage = &storage_of(tensor);
  for (int i = 0; i < 100; ++i) tensor = to_tensor(share(tensor));
  EXPECT_EQ(&storage_of(tensor), storage);
  EXPECT_EQ(tensor.storage().use_count(), 1u);
  EXPECT_EQ(counter.count(), 0);
  tensor.reset();
  EXPECT_EQ(counter.count(), 1);
}

TEST(AnyReuseStorage, ForeignChainReleasesOnce) {
  CountedMemory counted;
  at::Tensor first = to_tensor(counted.loan());
  Loan loan = share(first);
  first.reset();
  at::Tensor second = to_tensor(std::move(loan));
  EXPECT_EQ(second.data_ptr(), counted.data());
  EXPECT_EQ(counted.releases(), 0);
  second.reset();
  EXPECT_EQ(counted.releases(), 1);
}

TEST_P(ReuseStorage, StorageDropsOnAnyThread) {
  for (int round = 0; round < 300; ++round) {
    GuardedBuffer buffer(64);
    ReleaseCounter counter;
    {
      at::Tensor source = counted_tensor(buffer, counter);
      Loan loan = share(source);
      std::thread dropper([moved = std::move(source)]() mutable { moved.reset(); });
      const at::Tensor back = to_tensor(std::move(loan));
      dropper.join();
      EXPECT_EQ(back.data_ptr(), buffer.data());
      EXPECT_EQ(counter.count(), 0);
    }
    EXPECT_EQ(counter.count(), 1);
  }
}

TEST_P(ReuseStorage, NeedsNoDeleter) {
  Loan held = share(source_);
  Loan described = make_loan({4}, {2}, kUint8, buffer_.data() + 8, Deleter{});
  EXPECT_FALSE(reuse_storage(described).defined());
  described.original = held.original;
  at::Tensor back = reuse_storage(described);
  ASSERT_TRUE(back.defined());
  EXPECT_EQ(&storage_of(back), &storage_of(source_));
  EXPECT_EQ(back.storage_offset(), 8);
  EXPECT_EQ(back.strides(), (Dims{2}));
  EXPECT_FALSE(described.owns_memory());
  held.reset();
  source_.reset();
  EXPECT_EQ(counter_.count(), 0);
  back.reset();
  EXPECT_EQ(counter_.count(), 1);
}

TEST_P(ReuseStorage, EndsWithReplacedBytes) {
  Loan loan = share(source_);
  replace_bytes();
  EXPECT_EQ(counter_.count(), 0);
  loan.reset();  // the bytes go, the storage stays
  EXPECT_EQ(counter_.count(), 1);
  at::Tensor back = to_tensor(share(source_));
  EXPECT_EQ(&storage_of(back), &storage_of(source_));
  EXPECT_EQ(back.sum().item<int64_t>(), 64);
}

// The memory of bytes that are gone soon serves others: a storage that outlived its bytes must not
// touch those when it goes.
TEST_P(ReuseStorage, OthersStayReusable) {
  Loan loan = share(source_);
  replace_bytes();
  loan.reset();
  CountedMemory counted;
  const at::Tensor next = to_tensor(counted.loan());
  Loan exported = share(next);
  source_.reset();
  EXPECT_EQ(&storage_of(to_tensor(std::move(exported))), &storage_of(next));
}

TEST_P(ReuseStorage, OldBytesAreNotReused) {
  Loan first = share(source_);
  at::Tensor other = replace_bytes();
  Loan second = share(source_);
  const c10::StorageImpl* storage = &storage_of(source_);
  EXPECT_EQ(&storage_of(to_tensor(std::move(second))), storage);
  at::Tensor apart = to_tensor(std::move(first));
  EXPECT_NE(&storage_of(apart), storage);
  source_.reset();
  EXPECT_EQ(counter_.count(), 0);
  other.reset();
  apart.reset();
  EXPECT_EQ(counter_.count(), 1);
}

TEST_P(ReuseStorage, IgnoresWeakStorages) {
  Loan loan = share(source_);
  {
    const c10::weak_intrusive_ptr<c10::StorageImpl> watcher(source_.storage().getWeakStorageImpl());
    source_.reset();
    EXPECT_TRUE(watcher.expired());
    EXPECT_FALSE(reuse_storage(loan).defined());
  }
  EXPECT_FALSE(reuse_storage(loan).defined());
  EXPECT_EQ(counter_.count(), 0);
  loan.reset();
  EXPECT_EQ(counter_.count(), 1);
}

// Exports, ways back and the end of the storage at the same time: nothing is found that is gone,
// and the bytes are given back once.
TEST_P(ReuseStorage, RacesWithTheEnd) {
  constexpr int kThreads = 4;
  for (int round = 0; round < 300; ++round) {
    GuardedBuffer buffer(64);
    ReleaseCounter counter;
    at::Tensor source = counted_tensor(buffer, counter);
    std::vector<Loan> loans(kThreads);
    for (Loan& loan : loans) loan = share(source);
    std::barrier<> start(kThreads + 1);
    std::vector<std::thread> threads;
    for (Loan& loan : loans) {
      threads.emplace_back([&] {
        start.arrive_and_wait();
        for (int i = 0; i < 3; ++i) {
          at::Tensor back = reuse_storage(loan);
          if (!back.defined()) break;
          EXPECT_EQ(back.data_ptr(), buffer.data());
          back.reset();
        }
        loan.reset();
      });
    }
    start.arrive_and_wait();
    source.reset();
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(counter.count(), 1);
  }
}

}  // namespace
}  // namespace dlbridge
