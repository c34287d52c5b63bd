// SPDX-License-Identifier: Apache-2.0
// share: the bytes of a storage live until their last holder, whatever happens to the storage; they
// are given back once. Mapped and CUDA storages are held as they are.
#include <ATen/ATen.h>
#include <ATen/MapAllocator.h>
#include <c10/core/GradMode.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <functional>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "counted_memory.h"
#include "dlbridge/torch.h"
#include "memory.h"

namespace dlbridge {
namespace {

using test::GuardedBuffer;
using test::storage_of;

// Memory outside of torch that tells how often torch gave it back. Poisoned when that happens, so
// that a later reader sees the wrong bytes. Outlives its tensors.
class CountedBytes {
 public:
  explicit CountedBytes(size_t bytes) : buffer_(bytes) {
    buffer_.fill_with_pattern(7);
    expected_.assign(buffer_.data(), buffer_.data() + bytes);
  }

  at::Tensor tensor() {
    return at::from_blob(
        buffer_.data(), {static_cast<int64_t>(buffer_.size())},
        [this](void*) {
          ++releases_;
          std::fill_n(buffer_.data(), buffer_.size(), GuardedBuffer::kPoison);
        },
        at::kByte);
  }

  int releases() const { return releases_; }

  void expect_intact(const TensorView& view) const {
    ASSERT_EQ(view.nbytes(), static_cast<int64_t>(expected_.size()));
    EXPECT_TRUE(
        std::equal(expected_.begin(), expected_.end(), static_cast<const uint8_t*>(view.data)));
  }

 private:
  GuardedBuffer buffer_;
  std::vector<uint8_t> expected_;
  std::atomic<int> releases_{0};
};

TEST(Share, DescribesAndOwns) {
  CountedBytes bytes(24);
  const at::Tensor tensor = bytes.tensor();
  const Loan loan = share(tensor);
  EXPECT_TRUE(loan.owns_memory());
  EXPECT_EQ(loan.original.context, loan.deleter().context);
  EXPECT_EQ(loan.original.release, loan.deleter().release);
  EXPECT_EQ(loan.view().data, tensor.const_data_ptr());
  EXPECT_EQ(loan.view().access, Access::writable);
  EXPECT_FALSE(loan.view().is_copied);
  bytes.expect_intact(loan.view());
}

TEST(Share, AcquiresAfterDescribe) {
  CountedBytes bytes(24);
  at::Tensor tensor = bytes.tensor();
  Loan loan;
  describe(tensor, loan);
  EXPECT_FALSE(loan.owns_memory());
  acquire(tensor, loan);
  tensor.reset();
  EXPECT_TRUE(loan.owns_memory());
  EXPECT_EQ(bytes.releases(), 0);
  loan.reset();
  EXPECT_EQ(bytes.releases(), 1);
}

TEST(Share, SwapsTheDataPtrOnce) {
  const at::Tensor tensor = at::zeros({16});
  c10::StorageImpl& storage = storage_of(tensor);
  const void* address = storage.data();
  const void* original = storage.data_ptr().get_context();
  (void)share(tensor);  // the swap outlives the export
  const void* shared = storage.data_ptr().get_context();
  EXPECT_NE(shared, original);
  const Loan first = share(tensor);
  EXPECT_EQ(storage.data(), address);
  EXPECT_EQ(storage.device(), c10::Device(c10::kCPU));
  const Loan second = share(tensor);
  const Loan of_a_view = share(tensor.narrow(0, 3, 5));
  EXPECT_EQ(storage.data_ptr().get_context(), shared);
  EXPECT_EQ(first.deleter().context, shared);
  EXPECT_EQ(second.deleter().context, shared);
  EXPECT_EQ(of_a_view.deleter().context, shared);
}

TEST(Share, HoldsOnlyBytes) {
  const at::Tensor tensor = at::zeros({16});
  const size_t storage_before = tensor.storage().use_count();
  const Loan loan = share(tensor);
  EXPECT_EQ(tensor.use_count(), 1u);
  EXPECT_EQ(tensor.storage().use_count(), storage_before);
}

TEST(Share, TensorOutlivesItsExports) {
  CountedBytes bytes(100);
  at::Tensor tensor = bytes.tensor();
  for (int i = 0; i < 3; ++i) (void)share(tensor);
  EXPECT_EQ(bytes.releases(), 0);
  tensor.reset();
  EXPECT_EQ(bytes.releases(), 1);
}

TEST(Share, LastOfManyHoldersReleases) {
  CountedBytes bytes(100);
  at::Tensor tensor = bytes.tensor();
  std::vector<Loan> loans;
  for (int i = 0; i < 5; ++i) loans.push_back(share(tensor));
  tensor.reset();
  while (loans.size() > 1) {
    loans.erase(loans.begin());
    EXPECT_EQ(bytes.releases(), 0);
    bytes.expect_intact(loans.front().view());
  }
  loans.clear();
  EXPECT_EQ(bytes.releases(), 1);
}

TEST(Share, LastHolderFreesTheStorage) {
  const at::Tensor tensor = at::zeros({4});
  const auto weak_references = [&] {
    return tensor.storage().getWeakStorageImpl().weak_use_count();
  };
  const auto before = weak_references();
  Loan loan = share(tensor);
  EXPECT_EQ(weak_references(), before + 1);
  (void)storage_of(tensor).set_data_ptr(at::getCPUAllocator()->allocate(16));
  loan.reset();
  EXPECT_EQ(weak_references(), before);
}

TEST(Share, ReleasesOnAnyThread) {
  CountedBytes bytes(100);
  Loan loan = share(bytes.tensor());
  std::thread([moved = std::move(loan)]() mutable { moved.reset(); }).join();
  EXPECT_EQ(bytes.releases(), 1);
}

TEST(Share, MakesStorageFixed) {
  const at::Tensor tensor = at::zeros({4});
  ASSERT_TRUE(storage_of(tensor).resizable());
  (void)share(tensor);
  EXPECT_FALSE(storage_of(tensor).resizable());
  EXPECT_THROW(tensor.resize_({1000}), c10::Error);
}

TEST(Share, TakesEmptyStorages) {
  at::Tensor tensor = at::empty({0, 3});
  Loan loan = share(tensor);
  EXPECT_EQ(loan.view().data, nullptr);
  EXPECT_TRUE(loan.owns_memory());
  tensor.reset();
  loan.reset();
}

struct Fate {
  const char* name;
  std::function<void(at::Tensor&)> happen;
};

void PrintTo(const Fate& row, std::ostream* out) { *out << row.name; }

class SharedBytesFate : public testing::TestWithParam<Fate> {};

TEST_P(SharedBytesFate, KeepsTheExport) {
  CountedBytes bytes(64);
  at::Tensor tensor = bytes.tensor();
  Loan loan = share(tensor);
  GetParam().happen(tensor);
  EXPECT_EQ(bytes.releases(), 0);
  bytes.expect_intact(loan.view());
  tensor.reset();
  EXPECT_EQ(bytes.releases(), 0);
  bytes.expect_intact(loan.view());
  loan.reset();
  EXPECT_EQ(bytes.releases(), 1);
}

INSTANTIATE_TEST_SUITE_P(
    All, SharedBytesFate,
    testing::Values(
        Fate{"Dropped", [](at::Tensor& tensor) { tensor.reset(); }},
        Fate{"DataPtrReplaced",
             [](at::Tensor& tensor) {
               (void)storage_of(tensor).set_data_ptr(at::getCPUAllocator()->allocate(64));
             }},
        Fate{"DataPtrsSwappedWithAStorageThatDies",
             [](at::Tensor& tensor) {
               const at::Tensor other = at::zeros({64}, at::kByte);
               storage_of(tensor).swap_data_ptr(storage_of(other));
             }},
        Fate{"StorageCleared", [](at::Tensor& tensor) { storage_of(tensor).reset(); }},
        Fate{"StorageGivenOtherMemory",
             [](at::Tensor& tensor) {
               storage_of(tensor).UniqueStorageShareExternalPointer(
                   at::getCPUAllocator()->allocate(8), 8);
             }},
        Fate{"SetToAnother", [](at::Tensor& tensor) { tensor.set_(at::zeros({3}, at::kByte)); }},
        Fate{"DataAssigned",
             [](at::Tensor& tensor) { tensor.set_data(at::zeros({9}, at::kByte)); }},
        Fate{"Resized",
             [](at::Tensor& tensor) { EXPECT_THROW(tensor.resize_({1 << 20}), c10::Error); }},
        Fate{"LazilyClonedAndWritten",
             [](at::Tensor& tensor) {
               try {
                 at::Tensor clone = at::_lazy_clone(tensor);
                 clone.fill_(1);
                 tensor = at::Tensor();
               } catch (const c10::Error&) {  // torch may refuse storages with foreign deleters
               }
             }}),
    [](const auto& row_info) { return std::string(row_info.param.name); });

TEST(Share, WritesShowOnBothSides) {
  at::Tensor tensor = at::zeros({4}, at::kInt);
  const Loan loan = share(tensor);
  auto* values = static_cast<int32_t*>(loan.view().data);
  tensor.fill_(42);
  EXPECT_EQ(values[3], 42);
  values[1] = 7;
  EXPECT_EQ(tensor[1].item<int32_t>(), 7);
}

TEST(Share, SharesReplacedBytes) {
  CountedBytes old_bytes(64);
  at::Tensor tensor = old_bytes.tensor();
  Loan old_loan = share(tensor);
  CountedBytes new_bytes(64);
  at::Tensor other = new_bytes.tensor();
  storage_of(tensor).swap_data_ptr(storage_of(other));
  other.reset();
  Loan new_loan = share(tensor);
  EXPECT_NE(new_loan.deleter().context, old_loan.deleter().context);
  tensor.reset();
  old_loan.reset();
  EXPECT_EQ(old_bytes.releases(), 1);
  EXPECT_EQ(new_bytes.releases(), 0);
  new_bytes.expect_intact(new_loan.view());
  new_loan.reset();
  EXPECT_EQ(new_bytes.releases(), 1);
}

TEST(Share, SwapsInferenceTensors) {
  for (const bool share_inside : {false, true}) {
    CountedBytes bytes(32);
    at::Tensor tensor;
    Loan loan;
    {
      const c10::InferenceMode mode;
      tensor = bytes.tensor();
      ASSERT_TRUE(tensor.is_inference());
      if (share_inside) loan = share(tensor);
    }
    if (!share_inside) loan = share(tensor);
    EXPECT_EQ(storage_of(tensor).data_ptr().get_context(), loan.deleter().context);
    tensor.reset();
    EXPECT_EQ(bytes.releases(), 0);
    bytes.expect_intact(loan.view());
    loan.reset();
    EXPECT_EQ(bytes.releases(), 1);
  }
}

TEST(Share, SharesParameters) {
  CountedBytes bytes(32);
  at::Tensor parameter = bytes.tensor().view(at::kFloat).requires_grad_();
  Loan loan = [&] {
    const c10::AutoGradMode no_grad(false);
    return share(parameter);
  }();
  bytes.expect_intact(loan.view());
  parameter.reset();
  EXPECT_EQ(bytes.releases(), 0);
  loan.reset();
  EXPECT_EQ(bytes.releases(), 1);
}

TEST(Share, OutlivesItsThread) {
  CountedBytes bytes(64);
  at::Tensor tensor = bytes.tensor();
  Loan loan;
  std::thread([&] { loan = share(tensor); }).join();
  const Loan again = share(tensor);
  EXPECT_EQ(again.deleter().context, loan.deleter().context);
  tensor.reset();
  loan.reset();
  EXPECT_EQ(bytes.releases(), 0);
  bytes.expect_intact(again.view());
}

TEST(ShareConcurrently, SwapsOnce) {
  constexpr int kThreads = 8;
  constexpr int kRounds = 500;
  std::vector<Loan> loans(kThreads);
  at::Tensor tensor;
  std::barrier<> rendezvous(kThreads + 1);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < kRounds; ++round) {
        rendezvous.arrive_and_wait();  // the tensor is there
        loans[static_cast<size_t>(i)] = share(tensor);
        rendezvous.arrive_and_wait();  // shared
        rendezvous.arrive_and_wait();  // looked at
        loans[static_cast<size_t>(i)].reset();
        rendezvous.arrive_and_wait();  // released
      }
    });
  }
  for (int round = 0; round < kRounds; ++round) {
    CountedBytes bytes(64);
    tensor = bytes.tensor();
    rendezvous.arrive_and_wait();
    rendezvous.arrive_and_wait();
    const void* shared = storage_of(tensor).data_ptr().get_context();
    const bool one_swap = std::all_of(loans.begin(), loans.end(), [&](const Loan& loan) {
      return loan.deleter().context == shared;
    });
    EXPECT_TRUE(one_swap);
    EXPECT_EQ(bytes.releases(), 0);
    tensor.reset();
    EXPECT_EQ(bytes.releases(), 0);
    rendezvous.arrive_and_wait();
    rendezvous.arrive_and_wait();
    EXPECT_EQ(bytes.releases(), 1);
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(ShareConcurrently, KeepsStoragesApart) {
  constexpr int kThreads = 8;
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        CountedBytes bytes(64);
        {
          at::Tensor tensor = bytes.tensor();
          const Loan first = share(tensor);
          const Loan second = share(tensor);
          if (first.deleter().context != second.deleter().context) ++wrong;
          tensor.reset();
          if (bytes.releases() != 0) ++wrong;
        }
        if (bytes.releases() != 1) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

// A file in the build machine's temporary folder, gone with the object.
class TemporaryFile {
 public:
  explicit TemporaryFile(size_t bytes) : path_(testing::TempDir() + "dlbridge_mapped_XXXXXX") {
    descriptor_ = mkstemp(path_.data());
    const std::string content(bytes, 'x');
    good_ = descriptor_ >= 0 &&
            write(descriptor_, content.data(), bytes) == static_cast<ssize_t>(bytes);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    close(descriptor_);
    unlink(path_.c_str());
  }
  bool good() const { return good_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int descriptor_ = -1;
  bool good_ = false;
};

void expect_held_not_swapped(at::Tensor tensor) {
  c10::StorageImpl& storage = storage_of(tensor);
  const void* context = storage.data_ptr().get_context();
  const auto deleter = storage.data_ptr().get_deleter();
  storage.set_allocator(at::getCPUAllocator());  // or torch would not let it be resizable
  storage.set_resizable(true);
  const auto holders = [&] { return c10::raw::intrusive_ptr::use_count(&storage); };
  const auto before = holders();
  Loan first = share(tensor);
  Loan second = share(tensor);
  EXPECT_EQ(storage.data_ptr().get_context(), context);
  EXPECT_EQ(storage.data_ptr().get_deleter(), deleter);
  EXPECT_EQ(holders(), before + 2);
  EXPECT_FALSE(storage.resizable());
  first.reset();
  EXPECT_EQ(holders(), before + 1);
  tensor.reset();  // the last holder but the loan
  EXPECT_EQ(holders(), 1u);
  second.reset();
}

TEST(ShareMapped, FileIsHeld) {
  const TemporaryFile file(64);
  ASSERT_TRUE(file.good());
  for (const bool shared : {false, true}) {
    expect_held_not_swapped(at::from_file(file.path(), shared, 64, at::kByte));
    at::Tensor tensor = at::from_file(file.path(), shared, 64, at::kByte);
    const Loan loan = share(tensor);
    EXPECT_NE(at::MapAllocator::fromDataPtr(storage_of(tensor).data_ptr()), nullptr);
    tensor.reset();
    EXPECT_EQ(static_cast<const char*>(loan.view().data)[63], 'x');
  }
}

TEST(ShareMapped, SharedMemoryIsHeld) {
  const std::string handle = "/dlbridge_test_" + std::to_string(getpid());
  const auto make = [&] {
    constexpr int kFlags = at::ALLOCATOR_MAPPED_SHAREDMEM | at::ALLOCATOR_MAPPED_EXCLUSIVE;
    auto storage = c10::make_intrusive<c10::StorageImpl>(
        c10::StorageImpl::use_byte_size_t(), 64,
        at::RefcountedMapAllocator::makeDataPtr(handle.c_str(), kFlags, 64, nullptr), nullptr,
        false);
    return at::empty({0}, at::kByte).set_(c10::Storage(std::move(storage)), 0, {64}, {1});
  };
  expect_held_not_swapped(make());
  at::Tensor tensor = make();
  tensor.fill_(5);
  const Loan loan = share(tensor);
  EXPECT_NE(at::RefcountedMapAllocator::fromDataPtr(storage_of(tensor).data_ptr()), nullptr);
  tensor.reset();
  EXPECT_EQ(static_cast<const uint8_t*>(loan.view().data)[63], 5);
}

TEST(ShareCuda, StorageIsHeld) {
  std::atomic<int> releases{0};
  const auto make = [&] {
    // An address that is not read: no device is needed.
    at::DataPtr data(
        reinterpret_cast<void*>(uintptr_t{0x10000}), &releases,
        [](void* context) { ++*static_cast<std::atomic<int>*>(context); },
        c10::Device(c10::kCUDA, 1));
    auto storage = c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), 64,
                                                         std::move(data), nullptr, false);
    return at::detail::make_tensor<c10::TensorImpl>(
        c10::Storage(std::move(storage)), c10::DispatchKey::CUDA, caffe2::TypeMeta::Make<float>());
  };
  expect_held_not_swapped(make());
  EXPECT_EQ(releases, 1);
  at::Tensor tensor = make();
  Loan loan = share(tensor);
  EXPECT_TRUE(Device(loan.view().device) == Device(DeviceType::cuda, 1));
  tensor.reset();
  EXPECT_EQ(releases, 1);
  loan.reset();
  EXPECT_EQ(releases, 2);
}

}  // namespace
}  // namespace dlbridge
