// SPDX-License-Identifier: Apache-2.0
// to_tensor: a tensor over the loan's memory that gives it back once; settled strides; what torch
// remembers of a layout; the thread's dispatch state.
#include <ATen/ATen.h>
#include <ATen/FunctionalTensorWrapper.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <optional>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "counted_memory.h"
#include "dlbridge/torch.h"
#include "errors.h"
#include "memory.h"
#include "shaped.h"

namespace dlbridge {
namespace {

using test::CountedMemory;
using test::Dims;
using test::expect_error;
using test::GuardedBuffer;
using test::kFloat32;
using test::kFloat64;
using test::kInt32;
using test::kUint8;
using test::make_loan;
using test::ReleaseCounter;
using test::row_major;
using test::storage_of;

TEST(ToTensor, HasTheLoansMemory) {
  CountedMemory counted;
  at::Tensor tensor = to_tensor(counted.loan({2, 8}));
  EXPECT_EQ(tensor.sizes(), (Dims{2, 8}));
  EXPECT_EQ(tensor.strides(), (Dims{8, 1}));
  EXPECT_EQ(tensor.scalar_type(), at::kFloat);
  EXPECT_EQ(tensor.device(), c10::Device(c10::kCPU));
  EXPECT_EQ(tensor.data_ptr(), counted.data());
  EXPECT_EQ(tensor.storage_offset(), 0);
  EXPECT_EQ(tensor.use_count(), 1u);
  EXPECT_TRUE(tensor.is_contiguous());
  tensor.fill_(2.5f);
  EXPECT_EQ(reinterpret_cast<const float*>(counted.data())[15], 2.5f);
  EXPECT_TRUE(counted.guards_intact());
}

TEST(ToTensor, AgreesWithFromBlob) {
  CountedMemory counted;
  const at::Tensor tensor = to_tensor(counted.loan());
  const at::Tensor blob = at::from_blob(counted.data(), {16}, at::kFloat);
  EXPECT_EQ(tensor.key_set(), blob.key_set());
  EXPECT_EQ(tensor.is_leaf(), blob.is_leaf());
  EXPECT_EQ(tensor.requires_grad(), blob.requires_grad());
  EXPECT_EQ(tensor._version(), blob._version());
  EXPECT_EQ(storage_of(tensor).nbytes(), storage_of(blob).nbytes());
  EXPECT_EQ(storage_of(tensor).device(), storage_of(blob).device());
}

TEST(ToTensor, TakesPartInAutograd) {
  CountedMemory counted;
  std::fill_n(reinterpret_cast<float*>(counted.data()), 16, 3.0f);
  const at::Tensor tensor = to_tensor(counted.loan()).requires_grad_();
  (tensor * tensor).sum().backward();
  EXPECT_EQ(tensor.grad()[15].item<float>(), 6.0f);
}

TEST(ToTensor, IsNotResizable) {
  CountedMemory counted;
  const at::Tensor tensor = to_tensor(counted.loan());
  EXPECT_FALSE(storage_of(tensor).resizable());
  EXPECT_THROW(tensor.resize_({1000}), c10::Error);
}

TEST(ToTensorRelease, WaitsForTheLastView) {
  CountedMemory counted;
  Loan loan = counted.loan();
  at::Tensor tensor = to_tensor(std::move(loan));
  EXPECT_FALSE(loan.owns_memory());
  at::Tensor view = tensor.narrow(0, 4, 4);
  c10::Storage storage = view.storage();
  tensor.reset();
  view.reset();
  EXPECT_EQ(counted.releases(), 0);
  storage = c10::Storage();
  EXPECT_EQ(counted.releases(), 1);
}

TEST(ToTensorRelease, HappensOnAnyThread) {
  CountedMemory counted;
  at::Tensor tensor = to_tensor(counted.loan());
  std::thread([moved = std::move(tensor)]() mutable { moved.reset(); }).join();
  EXPECT_EQ(counted.releases(), 1);
}

TEST(ToTensorRelease, OutlivesItsThread) {
  CountedMemory counted;
  at::Tensor tensor;
  std::thread([&] { tensor = to_tensor(counted.loan()); }).join();
  EXPECT_EQ(counted.releases(), 0);
  tensor.reset();
  EXPECT_EQ(counted.releases(), 1);
}

TEST(ToTensorRelease, NeedsNoDeleter) {
  GuardedBuffer buffer(64);
  at::Tensor tensor = to_tensor(make_loan({16}, {1}, kFloat32, buffer.data(), Deleter{}));
  EXPECT_EQ(tensor.data_ptr(), buffer.data());
  tensor.fill_(1);
  tensor.reset();
  EXPECT_TRUE(buffer.guards_intact());
}

TEST(ToTensorRelease, TakesNullContexts) {
  static std::atomic<int> releases;  // what an deleter without context can reach
  releases = 0;
  GuardedBuffer buffer(64);
  const Deleter deleter{nullptr, [](void*) noexcept { ++releases; }};
  at::Tensor tensor = to_tensor(make_loan({16}, {1}, kFloat32, buffer.data(), deleter));
  EXPECT_EQ(releases, 0);
  tensor.reset();
  EXPECT_EQ(releases, 1);
}

TEST(ToTensorRelease, HappensOnceAcrossThreads) {
  constexpr int kThreads = 8;
  constexpr int kEach = 100;  // more than a thread keeps spare blocks for
  ReleaseCounter counter;
  GuardedBuffer buffer(64);
  std::vector<std::vector<at::Tensor>> made(kThreads);
  const auto on_each_thread = [&](const auto& work) {
    std::vector<std::thread> threads;
    for (size_t i = 0; i < kThreads; ++i) threads.emplace_back([&work, i] { work(i); });
    for (std::thread& thread : threads) thread.join();
  };
  on_each_thread([&](size_t i) {
    for (int k = 0; k < kEach; ++k)
      made[i].push_back(
          to_tensor(make_loan({16}, {1}, kFloat32, buffer.data(), counter.deleter())));
  });
  EXPECT_EQ(counter.count(), 0);
  on_each_thread([&](size_t i) { made[(i + 1) % kThreads].clear(); });
  EXPECT_EQ(counter.count(), kThreads * kEach);
}

// Ends a thread whose last tensor is destroyed after whatever the adapter keeps for the thread: its
// holder was made first, and tensors came and went before it was filled.
constexpr int kTensorsOfAThread = 5;

void end_a_thread_with_a_tensor(ReleaseCounter& counter, void* data) {
  std::thread([&] {
    const auto make = [&] {
      return to_tensor(make_loan({16}, {1}, kFloat32, data, counter.deleter()));
    };
    static thread_local std::optional<at::Tensor> holder;
    holder.emplace();
    {
      std::vector<at::Tensor> passing;
      for (int i = 1; i < kTensorsOfAThread; ++i) passing.push_back(make());
    }
    *holder = make();
  }).join();
}

TEST(ToTensorRelease, HappensAtThreadExit) {
  GuardedBuffer buffer(64);
  ReleaseCounter counter;
  end_a_thread_with_a_tensor(counter, buffer.data());
  EXPECT_EQ(counter.count(), kTensorsOfAThread);
}

TEST(ToTensorRelease, LeavesNoMemory) {
  constexpr int kThreads = 1000;
  GuardedBuffer buffer(64);
  ReleaseCounter counter;
  end_a_thread_with_a_tensor(counter, buffer.data());
  const auto before = static_cast<int64_t>(mallinfo2().uordblks);
  for (int i = 0; i < kThreads; ++i) end_a_thread_with_a_tensor(counter, buffer.data());
  const auto grown = static_cast<int64_t>(mallinfo2().uordblks) - before;
  EXPECT_LT(grown, kThreads * 32);  // one leaked TensorImpl would be about 200 bytes a thread
  EXPECT_EQ(counter.count(), (kThreads + 1) * kTensorsOfAThread);
}

struct StrideRow {
  const char* name;
  Dims shape;
  Dims given;
  Dims expected;
  size_t nbytes;  // of the float32 storage: from the first element to the end of the last
};

void PrintTo(const StrideRow& row, std::ostream* out) { *out << row.name; }

class ToTensorStrides : public testing::TestWithParam<StrideRow> {};

TEST_P(ToTensorStrides, AreCanonical) {
  GuardedBuffer buffer(512);
  ReleaseCounter counter;
  at::Tensor tensor = to_tensor(
      make_loan(GetParam().shape, GetParam().given, kFloat32, buffer.data(), counter.deleter()));
  EXPECT_EQ(tensor.sizes(), GetParam().shape);
  EXPECT_EQ(tensor.strides(), GetParam().expected);
  EXPECT_EQ(storage_of(tensor).nbytes(), GetParam().nbytes);
  if (tensor.numel() > 0) tensor.expand_as(tensor).sum();
  tensor.reset();
  EXPECT_EQ(counter.count(), 1);
}

INSTANTIATE_TEST_SUITE_P(
    All, ToTensorStrides,
    testing::Values(
        StrideRow{"Scalar", {}, {}, {}, 4}, StrideRow{"Compact", {2, 3}, {3, 1}, {3, 1}, 24},
        StrideRow{"Transposed", {3, 2}, {1, 3}, {1, 3}, 24},
        StrideRow{"Padded", {3, 2}, {4, 1}, {4, 1}, 40}, StrideRow{"Stepped", {3}, {7}, {7}, 60},
        StrideRow{"Broadcast", {5, 3}, {0, 1}, {0, 1}, 12},
        StrideRow{"AllBroadcast", {5, 3}, {0, 0}, {0, 0}, 4},
        StrideRow{"OneElement", {1}, {-7}, {1}, 4},
        StrideRow{"OneElementOfStrideZero", {1}, {0}, {1}, 4},
        StrideRow{"OneElementThrice", {1, 1, 1}, {-9, 0, -1000}, {1, 1, 1}, 4},
        StrideRow{"PositiveStrideOfOneElement", {1}, {1000}, {1000}, 4},
        StrideRow{"LeadingOne", {1, 3}, {-99, 1}, {3, 1}, 12},
        StrideRow{"TrailingOne", {3, 1}, {1, -77}, {1, 1}, 12},
        StrideRow{"PositiveStrideOfATrailingOne", {3, 1}, {1, 77}, {1, 77}, 12},
        StrideRow{"PositiveStrideOfALeadingOne", {1, 3}, {99, 1}, {99, 1}, 12},
        StrideRow{"OneBetween", {3, 1, 2}, {2, -5, 1}, {2, 2, 1}, 24},
        StrideRow{"OneBesideAPaddedRow", {3, 1, 2}, {10, 0, 2}, {10, 4, 2}, 92},
        StrideRow{"Empty", {0}, {-5}, {1}, 0}, StrideRow{"EmptyRows", {0, 3}, {-1, 50}, {3, 1}, 0},
        StrideRow{"EmptyColumns", {2, 0}, {77, -1}, {1, 1}, 0},
        StrideRow{"EmptyInside", {2, 0, 3}, {0, 0, 0}, {3, 3, 1}, 0},
        StrideRow{"NineDimensions",
                  {1, 1, 1, 1, 1, 1, 1, 2, 3},
                  {-1, 0, -5, -9, 0, 0, 0, 3, 1},
                  {6, 6, 6, 6, 6, 6, 6, 3, 1},
                  24}),
    [](const auto& row_info) { return std::string(row_info.param.name); });

TEST(ToTensorStrides, AreTorchsOwn) {
  GuardedBuffer buffer(512);
  for (const Dims& shape : {Dims{1}, Dims{1, 3}, Dims{3, 1}, Dims{2, 1, 3, 1}, Dims{0}, Dims{2, 0},
                            Dims{0, 3, 1}, Dims{3, 0, 2}}) {
    Dims odd = row_major(shape);
    const bool empty = std::count(shape.begin(), shape.end(), 0) > 0;
    for (size_t i = 0; i < shape.size(); ++i) {
      if (shape[i] == 1 || empty) odd[i] = -1234;
    }
    const at::Tensor tensor = to_tensor(make_loan(shape, odd, kFloat32, buffer.data(), Deleter{}));
    EXPECT_EQ(tensor.strides(), at::empty(shape).strides());
    EXPECT_TRUE(tensor.is_contiguous());
  }
}

// Every layout that a shape of up to five extents can take by stepping, permuting and broadcasting,
// with and without channels in last place.
std::vector<at::Tensor> layouts() {
  std::vector<at::Tensor> found;
  for (const Dims& shape :
       {Dims{}, Dims{0}, Dims{1}, Dims{6}, Dims{2, 3}, Dims{1, 3}, Dims{3, 0}, Dims{2, 3, 4},
        Dims{1, 1, 1}, Dims{2, 1, 4}, Dims{2, 3, 4, 5}, Dims{1, 3, 1, 1}, Dims{2, 3, 1, 5},
        Dims{2, 3, 2, 3, 2}, Dims{1, 2, 1, 3, 1}, Dims{2, 1, 2, 1, 2, 1}}) {
    const at::Tensor whole = at::arange(at::zeros(shape).numel(), at::kInt).reshape(shape);
    Dims order(shape.size());
    std::iota(order.begin(), order.end(), 0);
    do {
      const at::Tensor permuted = whole.permute(order);
      found.push_back(permuted);
      for (int64_t dim = 0; dim < permuted.dim(); ++dim) {
        found.push_back(permuted.slice(dim, 0, permuted.size(dim), 2));
        found.push_back(permuted.slice(dim, 0, 1));
        if (permuted.size(dim) > 0)
          found.push_back(permuted.slice(dim, 0, 1).expand(permuted.sizes()));
      }
    } while (std::next_permutation(order.begin(), order.end()));
  }
  return found;
}

TEST(ToTensor, CachesLayoutFlags) {
  const std::vector<at::Tensor> all = layouts();
  ASSERT_GT(all.size(), 1500u);
  for (const at::Tensor& view : all) {
    const at::Tensor made = to_tensor(
        make_loan(view.sizes().vec(), view.strides().vec(), kInt32, view.data_ptr(), Deleter{}));
    // The same extents and strides, given to a TensorImpl the long way.
    at::Tensor asked = at::empty({0}, at::kInt);
    asked.unsafeGetTensorImpl()->set_sizes_and_strides(made.sizes(), made.strides());
    const auto text = [&] {
      return "extents " + c10::str(view.sizes()) + ", strides " + c10::str(view.strides());
    };
    EXPECT_EQ(made.numel(), asked.numel()) << text();
    EXPECT_EQ(made.is_non_overlapping_and_dense(), asked.is_non_overlapping_and_dense()) << text();
    for (auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast,
                        at::MemoryFormat::ChannelsLast3d}) {
      EXPECT_EQ(made.is_contiguous(format), asked.is_contiguous(format)) << text();
      EXPECT_EQ(made.unsafeGetTensorImpl()->is_strides_like(format),
                asked.unsafeGetTensorImpl()->is_strides_like(format))
          << text();
    }
  }
}

TEST(ToTensor, TakesRankSixtyFour) {
  GuardedBuffer buffer(8);
  Dims shape(64, 1);
  shape.back() = 2;
  const at::Tensor tensor =
      to_tensor(make_loan(shape, Dims(64, 1), kFloat32, buffer.data(), Deleter{}));
  EXPECT_EQ(tensor.sizes(), shape);
  EXPECT_TRUE(tensor.is_contiguous());
}

TEST(ToTensor, TakesNullWhenEmpty) {
  ReleaseCounter counter;
  at::Tensor tensor = to_tensor(make_loan({0, 3}, {3, 1}, kFloat32, nullptr, counter.deleter()));
  EXPECT_EQ(tensor.numel(), 0);
  EXPECT_EQ(tensor.data_ptr(), nullptr);
  EXPECT_EQ(storage_of(tensor).nbytes(), 0u);
  EXPECT_EQ(tensor.sum().item<float>(), 0.0f);
  EXPECT_EQ((tensor + 1).sizes(), (Dims{0, 3}));
  EXPECT_EQ(counter.count(), 0);
  tensor.reset();
  EXPECT_EQ(counter.count(), 1);
}

TEST(ToTensor, TakesHugeEmptyShapes) {
  ReleaseCounter counter;
  const int64_t huge = int64_t{1} << 40;
  at::Tensor tensor =
      to_tensor(make_loan({0, huge, huge}, {1, 1, 1}, kFloat32, nullptr, counter.deleter()));
  EXPECT_EQ(tensor.numel(), 0);
  EXPECT_EQ(tensor.size(2), huge);
  tensor.reset();
  EXPECT_EQ(counter.count(), 1);
}

struct Refusal {
  const char* name;
  DType dtype;
  Device device;
  ErrorCode code;
};

void PrintTo(const Refusal& row, std::ostream* out) { *out << row.name; }

class ToTensorRefusal : public testing::TestWithParam<Refusal> {};

TEST_P(ToTensorRefusal, ReleasesOnce) {
  GuardedBuffer buffer(64);
  ReleaseCounter counter;
  {
    Loan loan = make_loan({2}, {1}, GetParam().dtype, buffer.data(), counter.deleter());
    loan.view().device = GetParam().device;
    expect_error(GetParam().code, [&] { (void)to_tensor(std::move(loan)); });
    EXPECT_LE(counter.count(), 1);
  }
  EXPECT_EQ(counter.count(), 1);
}

using enum ErrorCode;

INSTANTIATE_TEST_SUITE_P(
    All, ToTensorRefusal,
    testing::Values(
        Refusal{"Float8E3m4", {TypeCode::float8_e3m4, 8}, DeviceType::cpu, unsupported_dtype},
        Refusal{"Int128", {TypeCode::int_, 128}, DeviceType::cpu, unsupported_dtype},
        Refusal{"Int4", {TypeCode::int_, 4}, DeviceType::cpu, unsupported_dtype},
        Refusal{"PaddedFloat4", kFloat4Padded, DeviceType::cpu, unsupported_dtype},
        Refusal{"Vector", {TypeCode::float_, 32, 4}, DeviceType::cpu, unsupported_dtype},
        Refusal{"Opaque", {TypeCode::opaque, 8}, DeviceType::cpu, unsupported_dtype},
        Refusal{"Metal", kFloat32, DeviceType::metal, unsupported_device},
        Refusal{"Rocm", kFloat32, DeviceType::rocm, unsupported_device},
        Refusal{"UnknownDevice", kFloat32, DLDevice{static_cast<DLDeviceType>(77), 0},
                unsupported_device},
        Refusal{"CudaIndexMinusOne", kFloat32, {DeviceType::cuda, -1}, unsupported_device},
        Refusal{"CudaIndexMinusTwo", kFloat32, {DeviceType::cuda, -2}, unsupported_device},
        Refusal{"CudaIndex128", kFloat32, {DeviceType::cuda, 128}, unsupported_device},
        Refusal{"CudaIndex259", kFloat32, {DeviceType::cuda, 259}, unsupported_device},
        Refusal{"CudaIndexHuge", kFloat32, {DeviceType::cuda, 1 << 20}, unsupported_device}),
    [](const auto& row_info) { return std::string(row_info.param.name); });

TEST(ToTensorDevice, PinnedIsCpu) {
  CountedMemory counted;
  Loan loan = counted.loan();
  loan.view().device = Device(DeviceType::cuda_host);
  at::Tensor tensor = to_tensor(std::move(loan));
  EXPECT_EQ(tensor.device(), c10::Device(c10::kCPU));
  tensor.fill_(1.0f);
  EXPECT_EQ(reinterpret_cast<const float*>(counted.data())[15], 1.0f);
  tensor.reset();
  EXPECT_EQ(counted.releases(), 1);
}

TEST(ToTensorDevice, AnyCpuIdIsTaken) {
  CountedMemory counted;
  Loan loan = counted.loan();
  loan.view().device = Device(DeviceType::cpu, 5);
  EXPECT_EQ(to_tensor(std::move(loan)).device(), c10::Device(c10::kCPU));
}

TEST(ToTensorDevice, CudaKeepsItsIndex) {
  // An address that is not read: no device is needed.
  for (const DeviceType type : {DeviceType::cuda, DeviceType::cuda_managed}) {
    CountedMemory counted;
    Loan loan = counted.loan();
    loan.view().device = Device(type, 3);
    at::Tensor tensor = to_tensor(std::move(loan));
    EXPECT_EQ(tensor.device(), c10::Device(c10::kCUDA, 3));
    EXPECT_TRUE(tensor.key_set().has(c10::DispatchKey::CUDA));
    EXPECT_FALSE(tensor.key_set().has(c10::DispatchKey::CPU));
    EXPECT_EQ(tensor.storage().data(), counted.data());
    tensor.reset();
    EXPECT_EQ(counted.releases(), 1);
  }
}

TEST(ToTensorDevice, MatchesTheTraits) {
  for (int type = 0; type < 32; ++type) {
    const DLDevice device{static_cast<DLDeviceType>(type), 0};
    GuardedBuffer buffer(64);
    Loan loan = make_loan({2}, {1}, kFloat32, buffer.data(), Deleter{});
    loan.view().device = device;
    bool taken = true;
    try {
      (void)to_tensor(std::move(loan));
    } catch (const Error&) {
      taken = false;
    }
    EXPECT_EQ(torch_traits().accepts_device(device), taken) << Device(device).name();
  }
}

TEST(DispatchState, FollowsInferenceMode) {
  CountedMemory counted;
  const at::Tensor source = at::zeros({16});
  const c10::InferenceMode mode;
  const at::Tensor expected = at::lift_fresh(at::from_blob(counted.data(), {16}, at::kFloat));
  const at::Tensor fresh = to_tensor(counted.loan());
  const at::Tensor back = to_tensor(share(source));
  for (const at::Tensor& tensor : {fresh, back}) {
    EXPECT_TRUE(tensor.is_inference());
    EXPECT_EQ(tensor.key_set(), expected.key_set());
  }
  EXPECT_EQ(&storage_of(back), &storage_of(source));
}

TEST(DispatchState, OrdinaryOutside) {
  CountedMemory counted;
  const at::Tensor source = [] {
    const c10::InferenceMode mode;
    return at::zeros({16});
  }();
  EXPECT_FALSE(to_tensor(counted.loan()).is_inference());
  EXPECT_FALSE(to_tensor(share(source)).is_inference());
}

TEST(DispatchState, FollowsFunctionalize) {
  const at::Tensor source = at::zeros({16});
  CountedMemory counted;
  Loan shared = share(source);
  {
    const c10::impl::IncludeDispatchKeyGuard mode(c10::DispatchKey::Functionalize);
    for (at::Tensor tensor : {to_tensor(counted.loan()), to_tensor(std::move(shared))}) {
      EXPECT_TRUE(at::functionalization::impl::isFunctionalTensor(tensor));
      EXPECT_EQ(tensor.sizes(), (Dims{16}));
    }
  }
  EXPECT_EQ(counted.releases(), 1);
}

}  // namespace
}  // namespace dlbridge
