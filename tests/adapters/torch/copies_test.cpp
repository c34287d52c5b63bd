// SPDX-License-Identifier: Apache-2.0
// Memory of torch's own for copies, and torch's copies and casts into memory of ours: what a plan's
// copy and cast are made of.
#include <ATen/ATen.h>
#include <ATen/FunctionalTensorWrapper.h>
#include <ATen/SequenceNumber.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <complex>
#include <cstring>
#include <functional>
#include <new>
#include <ostream>
#include <string>
#include <vector>

#include "counted_memory.h"
#include "dlbridge/torch.h"
#include "errors.h"
#include "memory.h"
#include "shaped.h"

namespace dlbridge {
namespace {

using test::Dims;
using test::error_of;
using test::expect_error;
using test::GuardedBuffer;
using test::kFloat32;
using test::kFloat64;
using test::kInt32;
using test::kInt64;
using test::kUint8;
using test::Shaped;
using test::storage_of;

DType dlpack(at::ScalarType scalar) { return *dtype_of(scalar); }

TEST(EmptyTensor, OwnsWritableMemory) {
  Loan memory;
  at::Tensor tensor = empty_tensor(Shaped({2, 3}, {3, 1}).view(), kFloat64, memory);
  EXPECT_EQ(tensor.scalar_type(), at::kDouble);
  EXPECT_EQ(tensor.sizes(), (Dims{2, 3}));
  EXPECT_EQ(tensor.use_count(), 1u);
  EXPECT_EQ(storage_of(tensor).nbytes(), 48u);
  EXPECT_EQ(storage_of(tensor).allocator(), at::getCPUAllocator());
  EXPECT_EQ(memory.view().data, tensor.data_ptr());
  EXPECT_EQ(memory.view().access, Access::writable);
  EXPECT_TRUE(DType(memory.view().dtype) == kFloat64);
  EXPECT_TRUE(Device(memory.view().device) == Device(DeviceType::cpu));
  EXPECT_FALSE(memory.owns_memory());
  std::memset(memory.view().data, 0, 48);
  EXPECT_EQ(tensor.sum().item<double>(), 0.0);
}

TEST(EmptyTensor, IsWhatAtEmptyWouldMake) {
  Loan memory;
  const at::Tensor tensor =
      finish_copy(empty_tensor(Shaped({2, 3}, {3, 1}).view(), kFloat32, memory));
  const at::Tensor expected = at::empty({2, 3});
  EXPECT_EQ(tensor.key_set(), expected.key_set());
  EXPECT_EQ(storage_of(tensor).resizable(), storage_of(expected).resizable());
  tensor.resize_({100});
  EXPECT_EQ(tensor.numel(), 100);
}

TEST(EmptyTensor, CanBeShared) {
  Loan memory;
  at::Tensor tensor = empty_tensor(Shaped({4}, {1}).view(), kInt32, memory);
  tensor.fill_(9);
  const Loan loan = share(tensor);
  tensor.reset();
  EXPECT_EQ(static_cast<const int32_t*>(loan.view().data)[3], 9);
}

struct Order {
  const char* name;
  Dims shape;
  Dims like;
  Dims strides;
};

void PrintTo(const Order& row, std::ostream* out) { *out << row.name; }

class EmptyTensorOrder : public testing::TestWithParam<Order> {};

TEST_P(EmptyTensorOrder, IsDenseAndOrdered) {
  Loan memory;
  const at::Tensor tensor =
      empty_tensor(Shaped(GetParam().shape, GetParam().like).view(), kFloat64, memory);
  EXPECT_EQ(tensor.sizes(), GetParam().shape);
  EXPECT_EQ(tensor.strides(), GetParam().strides);
  const TensorView& view = memory.view();
  EXPECT_EQ(Dims(view.shape, view.shape + view.ndim), GetParam().shape);
  EXPECT_EQ(Dims(view.strides, view.strides + view.ndim), GetParam().strides);
  EXPECT_EQ(storage_of(tensor).nbytes(), static_cast<size_t>(tensor.numel()) * 8);
}

INSTANTIATE_TEST_SUITE_P(All, EmptyTensorOrder,
                         testing::Values(Order{"Scalar", {}, {}, {}},
                                         Order{"RowMajor", {2, 3}, {3, 1}, {3, 1}},
                                         Order{"ColumnMajor", {2, 3}, {1, 2}, {1, 2}},
                                         Order{"Gaps", {2, 3}, {50, 7}, {3, 1}},
                                         Order{"Permuted", {2, 3, 4}, {4, 8, 1}, {4, 8, 1}},
                                         Order{"Reversed", {2, 3}, {-3, -1}, {3, 1}},
                                         Order{"Broadcast", {4, 3}, {0, 1}, {3, 1}},
                                         Order{"Empty", {0, 3}, {3, 1}, {3, 1}},
                                         Order{"NineDimensions",
                                               {1, 1, 1, 1, 1, 1, 1, 2, 3},
                                               {6, 6, 6, 6, 6, 6, 6, 1, 2},
                                               {6, 6, 6, 6, 6, 6, 6, 1, 2}}),
                         [](const auto& row_info) { return std::string(row_info.param.name); });

TEST(EmptyTensor, RefusesMissingDtypes) {
  Loan memory;
  expect_error(ErrorCode::unsupported_dtype, [&] {
    (void)empty_tensor(Shaped({2}).view(), DType(TypeCode::float8_e3m4, 8), memory);
  });
}

TEST(EmptyTensor, ThrowsWithoutMemory) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer ends the process where there is no memory";
#endif
  Loan memory;
  EXPECT_THROW((void)empty_tensor(Shaped({int64_t{1} << 55}).view(), kUint8, memory),
               std::bad_alloc);
}

TEST(FinishCopy, KeepsPlainTensors) {
  at::Tensor tensor = at::zeros({3});
  const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  const at::Tensor finished = finish_copy(std::move(tensor));
  EXPECT_EQ(finished.unsafeGetTensorImpl(), impl);
  EXPECT_EQ(finished.use_count(), 1u);
}

// z(k) = k - (2k + 1)i, in shape (3, 4).
at::Tensor complex_source() {
  const at::Tensor k = at::arange(12, at::kFloat).reshape({3, 4});
  return at::complex(k, -2 * k - 1);
}
std::complex<float> z(int k) {
  const auto real = static_cast<float>(k);
  return {real, -2 * real - 1};
}

struct Source {
  const char* name;
  std::function<at::Tensor()> make;
  std::function<std::complex<float>(int)> value;
};

void PrintTo(const Source& row, std::ostream* out) { *out << row.name; }

class FillFromTensor : public testing::TestWithParam<Source> {
 protected:
  // Fills a destination with gaps between its columns and looks at every byte of it.
  static void fill_and_check(const at::Tensor& source) {
    constexpr int kGap = 2;  // every second element of the destination is left out
    GuardedBuffer buffer(12 * kGap * sizeof(std::complex<float>));
    fill_from_tensor(
        source, Shaped({3, 4}, {4 * kGap, kGap}, dlpack(at::kComplexFloat), buffer.data()).view());
    for (int k = 0; k < 12; ++k) {
      std::complex<float> pair[2];
      std::memcpy(pair, buffer.data() + static_cast<size_t>(k) * sizeof(pair), sizeof(pair));
      EXPECT_EQ(pair[0], GetParam().value(k)) << k;
      const auto* gap = reinterpret_cast<const uint8_t*>(&pair[1]);
      EXPECT_EQ(std::count(gap, gap + sizeof(pair[1]), GuardedBuffer::kPoison),
                std::ptrdiff_t{sizeof(pair[1])});
    }
    EXPECT_TRUE(buffer.guards_intact());
  }
};

TEST_P(FillFromTensor, ResolvesOddTensors) { fill_and_check(GetParam().make()); }

TEST_P(FillFromTensor, WorksInInferenceMode) {
  const at::Tensor ordinary = GetParam().make();
  const c10::InferenceMode mode;
  fill_and_check(ordinary);
  fill_and_check(GetParam().make());
}

TEST_P(FillFromTensor, TakesInferenceTensors) {
  const at::Tensor inference = [] {
    const c10::InferenceMode mode;
    return GetParam().make();
  }();
  fill_and_check(inference);
}

TEST_P(FillFromTensor, IgnoresModes) {
  const at::Tensor source = GetParam().make();
  const c10::impl::IncludeDispatchKeyGuard mode(c10::DispatchKey::Functionalize);
  fill_and_check(source);
}

TEST_P(FillFromTensor, RestoresTheThread) {
  const at::Tensor source = GetParam().make();
  const size_t references = source.use_count();
  const bool copy_on_write = storage_of(source).has_materializer();
  const void* address = source.storage().data();
  const bool grad_mode = c10::GradMode::is_enabled();
  const c10::impl::IncludeDispatchKeyGuard mode(c10::DispatchKey::Functionalize);
  const auto before = c10::impl::tls_local_dispatch_key_set();
  fill_and_check(source);
  const auto after = c10::impl::tls_local_dispatch_key_set();
  EXPECT_EQ(after.included_, before.included_);
  EXPECT_EQ(after.excluded_, before.excluded_);
  EXPECT_EQ(c10::GradMode::is_enabled(), grad_mode);
  EXPECT_EQ(source.use_count(), references);
  EXPECT_EQ(storage_of(source).has_materializer(), copy_on_write);
  EXPECT_EQ(source.storage().data(), address);
}

INSTANTIATE_TEST_SUITE_P(
    All, FillFromTensor,
    testing::Values(
        Source{"Plain", complex_source, z},
        Source{"Transposed", [] { return complex_source().t().contiguous().t(); }, z},
        Source{"Conj", [] { return complex_source().conj(); },
               [](int k) { return std::conj(z(k)); }},
        Source{"Neg", [] { return at::_neg_view(complex_source()); }, [](int k) { return -z(k); }},
        Source{"ConjAndNeg", [] { return at::_neg_view(complex_source().conj()); },
               [](int k) { return -std::conj(z(k)); }},
        Source{"ImaginaryPartOfConj", [] { return at::imag(complex_source().conj()); },
               [](int k) { return std::complex<float>(-z(k).imag()); }},
        Source{"Zero", [] { return at::_efficientzerotensor({3, 4}, at::kComplexFloat); },
               [](int) { return std::complex<float>(); }},
        Source{"RequiresGrad", [] { return complex_source().requires_grad_(); }, z},
        Source{"ResultWithHistory", [] { return complex_source().requires_grad_() * 2; },
               [](int k) { return 2.0f * z(k); }},
        Source{"ConjOfRequiresGrad", [] { return complex_source().requires_grad_().conj(); },
               [](int k) { return std::conj(z(k)); }},
        Source{"LazyClone", [] { return at::_lazy_clone(complex_source()); }, z},
        Source{"Broadcast", [] { return complex_source().narrow(0, 2, 1).expand({3, 4}); },
               [](int k) { return z(8 + k % 4); }},
        Source{"OtherDtype", [] { return at::arange(12, at::kShort).reshape({3, 4}); },
               [](int k) { return std::complex<float>(static_cast<float>(k)); }}),
    [](const auto& row_info) { return std::string(row_info.param.name); });

TEST(FillFromTensor, TakesScalarsAndEmpties) {
  GuardedBuffer buffer(8);
  fill_from_tensor(at::full({}, 3.5), Shaped({}, {}, kFloat64, buffer.data()).view());
  double value = 0;
  std::memcpy(&value, buffer.data(), 8);
  EXPECT_EQ(value, 3.5);
  fill_from_tensor(at::zeros({0, 3}), Shaped({0, 3}, {3, 1}, kFloat64, nullptr).view());
  EXPECT_TRUE(buffer.guards_intact());
}

TEST(FillFromTensor, IsNotRecorded) {
  GuardedBuffer buffer(16);
  const at::Tensor leaf = at::ones({4}).requires_grad_();
  const uint64_t nodes = at::sequence_number::peek();
  fill_from_tensor(leaf, Shaped({4}, {1}, kFloat32, buffer.data()).view());
  EXPECT_EQ(at::sequence_number::peek(), nodes);
}

TEST(FillFromTensor, KeepsGradients) {
  GuardedBuffer buffer(16);
  const at::Tensor leaf = at::ones({4}).requires_grad_();
  const at::Tensor result = leaf * 3;
  fill_from_tensor(result, Shaped({4}, {1}, kFloat32, buffer.data()).view());
  result.sum().backward();
  EXPECT_EQ(leaf.grad()[0].item<float>(), 3.0f);
}

TEST(FillFromTensor, ReportsTorchsErrors) {
  GuardedBuffer buffer(64);
  const auto before = c10::impl::tls_local_dispatch_key_set();
  const auto error = error_of(
      [&] { fill_from_tensor(at::zeros({5}), Shaped({4}, {1}, kFloat32, buffer.data()).view()); });
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code(), ErrorCode::framework_error);
  EXPECT_NE(std::string(error->what()).find("torch could not copy"), std::string::npos);
  EXPECT_EQ(std::string(error->what()).find("frame #"), std::string::npos);  // no backtrace
  const auto after = c10::impl::tls_local_dispatch_key_set();
  EXPECT_EQ(after.included_, before.included_);
  EXPECT_EQ(after.excluded_, before.excluded_);
  EXPECT_TRUE(c10::GradMode::is_enabled());
  EXPECT_EQ(buffer.data()[0], GuardedBuffer::kPoison);
}

class CastWithTorch : public testing::TestWithParam<at::ScalarType> {
 protected:
  static at::Tensor source() {
    const at::Tensor values = at::arange(6, at::kDouble).reshape({2, 3});
    return (at::isComplexType(GetParam()) ? at::complex(values, values + 0.5) : values + 0.5)
        .to(GetParam());
  }
};

constexpr at::ScalarType kCastTargets[] = {
    at::kBool,   at::kByte,   at::kChar,        at::kInt,          at::kLong,
    at::kHalf,   at::kFloat,  at::kDouble,      at::kBFloat16,     at::kComplexFloat,
    at::kUInt16, at::kUInt64, at::kFloat8_e5m2, at::kComplexDouble};

TEST_P(CastWithTorch, AgreesWithTo) {
  const at::Tensor from = source();
  for (const at::ScalarType target : kCastTargets) {
    SCOPED_TRACE(c10::toString(target));
    const at::Tensor expected = from.to(target).contiguous();
    const auto bytes = static_cast<size_t>(expected.nbytes());
    GuardedBuffer filled(bytes);
    fill_from_tensor(from, Shaped({2, 3}, {3, 1}, dlpack(target), filled.data()).view());
    EXPECT_EQ(std::memcmp(filled.data(), expected.const_data_ptr(), bytes), 0);
    EXPECT_TRUE(filled.guards_intact());
    GuardedBuffer cast(bytes);
    const Shaped src({2, 3}, {3, 1}, dlpack(GetParam()), from.data_ptr());
    cast_with_torch(src.view(), Shaped({2, 3}, {3, 1}, dlpack(target), cast.data()).view());
    EXPECT_EQ(std::memcmp(cast.data(), expected.const_data_ptr(), bytes), 0);
    EXPECT_TRUE(cast.guards_intact());
  }
}

INSTANTIATE_TEST_SUITE_P(All, CastWithTorch, testing::ValuesIn(kCastTargets),
                         [](const auto& row_info) {
                           return std::string(c10::toString(row_info.param));
                         });

TEST(CastWithTorch, KeepsGaps) {
  std::vector<int32_t> values = {0, 1, 2, 3, 4, 5};
  GuardedBuffer buffer(6 * 2 * sizeof(double));
  // Source read column by column, destination written into every second element.
  cast_with_torch(Shaped({3, 2}, {1, 3}, kInt32, values.data()).view(),
                  Shaped({3, 2}, {4, 2}, kFloat64, buffer.data()).view());
  const std::vector<double> expected = {0, 3, 1, 4, 2, 5};
  for (size_t i = 0; i < 6; ++i) {
    double value = 0;
    std::memcpy(&value, buffer.data() + i * 16, 8);
    EXPECT_EQ(value, expected[i]);
    EXPECT_EQ(buffer.data()[i * 16 + 8], GuardedBuffer::kPoison);
    EXPECT_EQ(buffer.data()[i * 16 + 15], GuardedBuffer::kPoison);
  }
  EXPECT_EQ(values, (std::vector<int32_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_TRUE(buffer.guards_intact());
}

TEST(CastWithTorch, TakesBroadcastsAndEmpties) {
  int64_t value = 7;
  GuardedBuffer buffer(16);
  cast_with_torch(Shaped({4}, {0}, kInt64, &value).view(),
                  Shaped({4}, {1}, kInt32, buffer.data()).view());
  EXPECT_EQ(reinterpret_cast<const int32_t*>(buffer.data())[3], 7);
  cast_with_torch(Shaped({}, {}, kInt64, &value).view(),
                  Shaped({}, {}, kUint8, buffer.data()).view());
  EXPECT_EQ(buffer.data()[0], 7);
  cast_with_torch(Shaped({0}, {1}, kInt64, nullptr).view(),
                  Shaped({0}, {1}, kInt32, nullptr).view());
}

TEST(CastWithTorch, RefusesNegativeStrides) {
  int32_t from[] = {1, 2};
  GuardedBuffer to(16);
  const Shaped forwards({2}, {1}, kInt32, from);
  expect_error(ErrorCode::negative_stride, [&] {
    cast_with_torch(Shaped({2}, {-1}, kInt32, from + 1).view(),
                    Shaped({2}, {1}, kFloat64, to.data()).view());
  });
  expect_error(ErrorCode::negative_stride, [&] {
    cast_with_torch(forwards.view(), Shaped({2}, {-1}, kFloat64, to.data() + 8).view());
  });
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(to.data()[i], GuardedBuffer::kPoison);
  EXPECT_TRUE(to.guards_intact());
}

TEST(CastWithTorch, IgnoresModes) {
  int32_t value = 300;
  const auto cast = [&] {
    GuardedBuffer buffer(8);
    cast_with_torch(Shaped({1}, {1}, kInt32, &value).view(),
                    Shaped({1}, {1}, kFloat64, buffer.data()).view());
    double result = 0;
    std::memcpy(&result, buffer.data(), 8);
    return result;
  };
  EXPECT_EQ(cast(), 300.0);
  {
    const c10::InferenceMode mode;
    EXPECT_EQ(cast(), 300.0);
  }
  {
    const c10::impl::IncludeDispatchKeyGuard mode(c10::DispatchKey::Functionalize);
    EXPECT_EQ(cast(), 300.0);
  }
  {
    const c10::AutoGradMode no_grad(false);
    EXPECT_EQ(cast(), 300.0);
  }
}

TEST(CopyDispatchState, FollowsInferenceMode) {
  const c10::InferenceMode mode;
  Loan memory;
  const at::Tensor tensor = finish_copy(empty_tensor(Shaped({4}).view(), kFloat32, memory));
  const at::Tensor expected = at::lift_fresh(at::empty({4}));
  EXPECT_TRUE(tensor.is_inference());
  EXPECT_EQ(tensor.key_set(), expected.key_set());
  EXPECT_EQ(tensor.data_ptr(), memory.view().data);
}

TEST(CopyDispatchState, FollowsFunctionalize) {
  Loan memory;
  at::Tensor finished;
  {
    const c10::impl::IncludeDispatchKeyGuard mode(c10::DispatchKey::Functionalize);
    at::Tensor tensor = empty_tensor(Shaped({4}).view(), kFloat32, memory);
    EXPECT_FALSE(at::functionalization::impl::isFunctionalTensor(tensor));
    float* values = static_cast<float*>(memory.view().data);
    for (int i = 0; i < 4; ++i) values[i] = static_cast<float>(i);
    finished = finish_copy(std::move(tensor));
  }
  ASSERT_TRUE(at::functionalization::impl::isFunctionalTensor(finished));
  const at::Tensor inner = at::functionalization::impl::from_functional_tensor(finished);
  EXPECT_EQ(inner[3].item<float>(), 3.0f);
}

}  // namespace
}  // namespace dlbridge
