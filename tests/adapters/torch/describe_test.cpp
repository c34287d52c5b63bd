// SPDX-License-Identifier: Apache-2.0
// describe: shape, strides, address, dtype and reasons of tensors as torch makes them; no
// reference taken, no memory looked at. The map between torch's scalar types and DLPack's.
#include <ATen/ATen.h>
#include <ATen/FunctionalTensorWrapper.h>
#include <ATen/core/NestedIntSymNodeImpl.h>
#include <ATen/functorch/BatchedTensorImpl.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <functional>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "counted_memory.h"
#include "dlbridge/torch.h"

namespace dlbridge {
namespace {

using test::Dims;
using test::storage_of;

Loan described(const at::Tensor& tensor) {
  Loan loan;
  describe(tensor, loan);
  return loan;
}

struct ScalarRow {
  at::ScalarType scalar;
  DType dtype;
};

// Written down a second time, so that a slip in the library's own table shows.
const std::vector<ScalarRow> kScalarRows = {
    {at::ScalarType::Bool, {TypeCode::boolean, 8}},
    {at::ScalarType::Char, {TypeCode::int_, 8}},
    {at::ScalarType::Short, {TypeCode::int_, 16}},
    {at::ScalarType::Int, {TypeCode::int_, 32}},
    {at::ScalarType::Long, {TypeCode::int_, 64}},
    {at::ScalarType::Byte, {TypeCode::uint, 8}},
    {at::ScalarType::UInt16, {TypeCode::uint, 16}},
    {at::ScalarType::UInt32, {TypeCode::uint, 32}},
    {at::ScalarType::UInt64, {TypeCode::uint, 64}},
    {at::ScalarType::Half, {TypeCode::float_, 16}},
    {at::ScalarType::Float, {TypeCode::float_, 32}},
    {at::ScalarType::Double, {TypeCode::float_, 64}},
    {at::ScalarType::BFloat16, {TypeCode::bfloat, 16}},
    {at::ScalarType::ComplexHalf, {TypeCode::complex, 32}},
    {at::ScalarType::ComplexFloat, {TypeCode::complex, 64}},
    {at::ScalarType::ComplexDouble, {TypeCode::complex, 128}},
    {at::ScalarType::Float8_e4m3fn, {TypeCode::float8_e4m3fn, 8}},
    {at::ScalarType::Float8_e4m3fnuz, {TypeCode::float8_e4m3fnuz, 8}},
    {at::ScalarType::Float8_e5m2, {TypeCode::float8_e5m2, 8}},
    {at::ScalarType::Float8_e5m2fnuz, {TypeCode::float8_e5m2fnuz, 8}},
    {at::ScalarType::Float8_e8m0fnu, {TypeCode::float8_e8m0fnu, 8}},
    {at::ScalarType::Float4_e2m1fn_x2, {TypeCode::float4_e2m1fn, 4, 2}},
};

void PrintTo(const ScalarRow& row, std::ostream* out) { *out << c10::toString(row.scalar); }

class TorchDtype : public testing::TestWithParam<ScalarRow> {};

TEST_P(TorchDtype, IsDescribed) {
  const at::Tensor tensor = at::empty({2, 3}, GetParam().scalar);
  const Loan loan = described(tensor);
  EXPECT_EQ(DType(loan.view().dtype).name(), GetParam().dtype.name());
  EXPECT_TRUE(loan.view().reasons.empty());
  EXPECT_EQ(loan.view().itemsize(), static_cast<int64_t>(c10::elementSize(GetParam().scalar)));
  EXPECT_FALSE(loan.view().subbyte_padded);
}

TEST_P(TorchDtype, RoundTrips) {
  const at::Tensor back = to_tensor(share(at::empty({2, 3}, GetParam().scalar)));
  EXPECT_EQ(back.scalar_type(), GetParam().scalar);
}

TEST_P(TorchDtype, IsMappedInBothDirections) {
  ASSERT_TRUE(dtype_of(GetParam().scalar).has_value());
  EXPECT_TRUE(DType(*dtype_of(GetParam().scalar)) == GetParam().dtype);
  EXPECT_EQ(scalar_type_of(GetParam().dtype), GetParam().scalar);
}

INSTANTIATE_TEST_SUITE_P(All, TorchDtype, testing::ValuesIn(kScalarRows), [](const auto& row_info) {
  return std::string(c10::toString(row_info.param.scalar));
});

TEST(TorchDtypes, MapNoOthers) {
  std::set<at::ScalarType> held;
  for (const ScalarRow& row : kScalarRows) held.insert(row.scalar);
  for (int i = 0; i <= static_cast<int>(at::ScalarType::NumOptions); ++i) {
    const auto scalar = static_cast<at::ScalarType>(i);
    EXPECT_EQ(dtype_of(scalar).has_value(), held.contains(scalar)) << c10::toString(scalar);
  }
}

TEST(TorchDtypes, LackUnknownTypes) {
  for (const DType dtype :
       {DType(TypeCode::int_, 128), DType(TypeCode::int_, 4), DType(TypeCode::float_, 128),
        DType(TypeCode::float_, 32, 2), DType(TypeCode::boolean, 1), DType(TypeCode::opaque, 8),
        DType(TypeCode::float8_e3m4, 8), DType(TypeCode::float6_e2m3fn, 6), kFloat4Padded,
        DType(DLDataType{40, 8, 1})}) {
    EXPECT_FALSE(scalar_type_of(dtype).has_value()) << dtype.name();
  }
}

TEST(TorchDtypes, AreInTheTraits) {
  for (int code = 0; code < 32; ++code) {
    for (const int bits : {1, 2, 4, 6, 8, 16, 32, 64, 128}) {
      const DType dtype(static_cast<TypeCode>(code), bits);
      EXPECT_EQ(torch_traits().dtypes.contains(dtype), scalar_type_of(dtype).has_value())
          << dtype.name();
    }
  }
  EXPECT_EQ(torch_traits().float4, Float4::pairs);
}

TEST(TorchDtypes, NameWhatDlpackLacks) {
  for (const auto scalar : {at::ScalarType::Bits8, at::ScalarType::Bits1x8, at::ScalarType::UInt4,
                            at::ScalarType::Int7}) {
    const Loan loan = described(at::empty({2}, scalar));
    EXPECT_EQ(loan.view().reasons, ReasonSet(ErrorCode::unsupported_dtype));
    EXPECT_STREQ(loan.view().found(), c10::toString(scalar));
  }
}

using MakeTensor = std::function<at::Tensor()>;

struct Layout {
  const char* name;
  MakeTensor make;
  Dims shape;
  Dims strides;
  int64_t offset_bytes = 0;
};

void PrintTo(const Layout& row, std::ostream* out) { *out << row.name; }

class DescribeLayout : public testing::TestWithParam<Layout> {};

TEST_P(DescribeLayout, AddsTheOffset) {
  const at::Tensor tensor = GetParam().make();
  const Loan loan = described(tensor);
  const TensorView& view = loan.view();
  EXPECT_EQ(Dims(view.shape, view.shape + view.ndim), GetParam().shape);
  EXPECT_EQ(Dims(view.strides, view.strides + view.ndim), GetParam().strides);
  EXPECT_TRUE(view.reasons.empty());
  EXPECT_EQ(view.access, Access::writable);
  EXPECT_TRUE(Device(view.device) == Device(DeviceType::cpu, 0));
  EXPECT_EQ(view.byte_offset, 0u);
  const auto* base = static_cast<const char*>(tensor.storage().data());
  EXPECT_EQ(static_cast<const char*>(view.data) - base, GetParam().offset_bytes);
  EXPECT_FALSE(loan.owns_memory());
}

INSTANTIATE_TEST_SUITE_P(
    All, DescribeLayout,
    testing::Values(
        Layout{"Scalar", [] { return at::zeros({}); }, {}, {}},
        Layout{"Compact", [] { return at::zeros({2, 3}); }, {2, 3}, {3, 1}},
        Layout{"Transposed", [] { return at::zeros({2, 3}, at::kShort).t(); }, {3, 2}, {1, 3}},
        Layout{"Stepped", [] { return at::zeros({7}).slice(0, 1, 7, 2); }, {3}, {2}, 4},
        Layout{"Column", [] { return at::zeros({4, 5}, at::kDouble).select(1, 3); }, {4}, {5}, 24},
        Layout{"ByteOffset", [] { return at::zeros({9}, at::kByte).narrow(0, 5, 2); }, {2}, {1}, 5},
        Layout{
            "Complex", [] { return at::zeros({4}, at::kComplexDouble).slice(0, 2); }, {2}, {1}, 32},
        Layout{"Broadcast", [] { return at::zeros({3}).expand({4, 3}); }, {4, 3}, {0, 1}},
        Layout{"SlidingWindow", [] { return at::zeros({6}).unfold(0, 3, 1); }, {4, 3}, {1, 1}},
        Layout{"ChannelsLast",
               [] { return at::zeros({2, 3, 4, 5}).contiguous(at::MemoryFormat::ChannelsLast); },
               {2, 3, 4, 5},
               {60, 1, 15, 3}},
        Layout{"OddStrideOfOneElement",
               [] { return at::zeros({4}).as_strided({1, 2}, {77, 1}, 1); },
               {1, 2},
               {77, 1},
               4},
        Layout{"Empty", [] { return at::zeros({0, 3}); }, {0, 3}, {3, 1}},
        Layout{"EmptyWindow", [] { return at::zeros({4}).narrow(0, 3, 0); }, {0}, {1}, 12},
        Layout{"NineDimensions",
               [] { return at::zeros({1, 1, 1, 1, 1, 1, 1, 2, 3}); },
               {1, 1, 1, 1, 1, 1, 1, 2, 3},
               {6, 6, 6, 6, 6, 6, 6, 3, 1}},
        Layout{"SixtyFiveDimensions",
               [] { return at::zeros({1}).as_strided(Dims(65, 1), Dims(65, 1)); }, Dims(65, 1),
               Dims(65, 1)}),
    [](const auto& row_info) { return std::string(row_info.param.name); });

TEST(Describe, EmptyStorageHasNoAddress) {
  const Loan loan = described(at::empty({0}));
  EXPECT_EQ(loan.view().data, nullptr);
  EXPECT_TRUE(loan.view().reasons.empty());
}

TEST(Describe, CudaDeviceKeepsItsIndex) {
  // An address that is not read: no device is needed to describe it.
  auto storage = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), 64,
      at::DataPtr(reinterpret_cast<void*>(uintptr_t{0x10000}), c10::Device(c10::kCUDA, 3)), nullptr,
      false);
  const at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(storage), c10::DispatchKey::CUDA, caffe2::TypeMeta::Make<float>());
  const Loan loan = described(tensor);
  EXPECT_TRUE(Device(loan.view().device) == Device(DeviceType::cuda, 3));
  EXPECT_TRUE(loan.view().reasons.empty());
  EXPECT_EQ(loan.view().data, reinterpret_cast<void*>(uintptr_t{0x10000}));
}

TEST(Describe, TakesNoReference) {
  const at::Tensor tensor = at::zeros({3});
  c10::StorageImpl& storage = storage_of(tensor);
  const void* context = storage.data_ptr().get_context();
  const auto references = [&] {
    return std::vector<size_t>{tensor.use_count(), tensor.weak_use_count(),
                               tensor.storage().use_count(),
                               tensor.storage().getWeakStorageImpl().weak_use_count()};
  };
  const std::vector<size_t> before = references();
  const Loan loan = described(tensor);
  EXPECT_EQ(references(), before);
  EXPECT_EQ(storage.data_ptr().get_context(), context);
  EXPECT_TRUE(storage.resizable());
}

// An implementation with more or other dispatch keys than a plain tensor has.
at::Tensor with_keys(c10::DispatchKeySet keys) {
  return at::detail::make_tensor<c10::TensorImpl>(c10::Storage(at::zeros({3}).storage()), keys,
                                                  caffe2::TypeMeta::Make<float>());
}

at::Tensor symbolic_tensor() {
  at::Tensor tensor = at::zeros({3});
  const c10::SymInt extent(
      c10::SymNode(c10::make_intrusive<c10::NestedIntSymNodeImpl>(int64_t{1}, int64_t{1})));
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(std::vector<c10::SymInt>{extent},
                                                      std::vector<c10::SymInt>{c10::SymInt(1)});
  return tensor;
}

at::Tensor copy_on_write_source() {
  at::Tensor source = at::zeros({3});
  (void)at::_lazy_clone(source);
  return source;
}

at::Tensor python_tensor() {
  at::Tensor tensor = at::zeros({3});
  tensor.unsafeGetTensorImpl()->set_python_dispatch(true);
  return tensor;
}

at::Tensor unreadable_tensor() {
  at::Tensor tensor = at::zeros({3});
  storage_of(tensor).release_data_and_set_meta_custom_data_ptr_error_msg_("not here");
  return tensor;
}

at::Tensor unwritable_tensor() {
  at::Tensor tensor = at::zeros({3});
  storage_of(tensor).set_throw_on_mutable_data_ptr();
  return tensor;
}

at::Tensor with_shrunk_storage(at::Tensor tensor, size_t bytes) {
  storage_of(tensor).set_nbytes(bytes);
  return tensor;
}

at::Tensor after_a_refused_resize() {
  at::Tensor tensor = at::zeros({4});
  (void)share(tensor);
  EXPECT_THROW(tensor.resize_({1000}), c10::Error);
  EXPECT_EQ(tensor.numel(), 1000);  // torch has changed the shape before it refuses
  return tensor;
}

struct ReasonCase {
  const char* name;
  MakeTensor make;
  ReasonSet reasons;
  bool described = true;  // curable: shape and dtype are said, so that a copy can be planned
};

void PrintTo(const ReasonCase& row, std::ostream* out) { *out << row.name; }

class DescribeReason : public testing::TestWithParam<ReasonCase> {};

TEST_P(DescribeReason, IsNamed) {
  const at::Tensor tensor = GetParam().make();
  const Loan loan = described(tensor);
  EXPECT_EQ(loan.view().reasons, GetParam().reasons) << name(
      loan.view().reasons.empty() ? ErrorCode::invalid_argument : loan.view().reasons.first());
  EXPECT_EQ(loan.view().ndim, GetParam().described ? tensor.dim() : 0);
}

TEST_P(DescribeReason, IsRefused) {
  const at::Tensor tensor = GetParam().make();
  const size_t before = tensor.use_count();
  try {
    (void)share(tensor);
    ADD_FAILURE() << "shared";
  } catch (const Error& error) {
    EXPECT_EQ(name(error.code()), name(GetParam().reasons.first())) << error.what();
  }
  EXPECT_EQ(tensor.use_count(), before);
}

at::Tensor complex_tensor() { return at::zeros({3}, at::kComplexFloat); }

using enum ErrorCode;

INSTANTIATE_TEST_SUITE_P(
    All, DescribeReason,
    testing::Values(
        ReasonCase{"Undefined", [] { return at::Tensor(); }, undefined_tensor, false},
        ReasonCase{"Conj", [] { return complex_tensor().conj(); }, conj_bit},
        ReasonCase{"Neg", [] { return at::_neg_view(at::zeros({3})); }, neg_bit},
        ReasonCase{"ConjAndNeg", [] { return at::_neg_view(complex_tensor().conj()); },
                   ReasonSet(conj_bit) | neg_bit},
        ReasonCase{"ImaginaryPartOfConj", [] { return at::imag(complex_tensor().conj()); },
                   neg_bit},
        ReasonCase{"Zero", [] { return at::_efficientzerotensor({3}, at::kFloat); }, zero_tensor},
        ReasonCase{"SparseCoo", [] { return at::zeros({3, 3}).to_sparse(); }, sparse_layout, false},
        ReasonCase{"SparseCsr", [] { return at::zeros({3, 3}).to_sparse_csr(); }, sparse_layout,
                   false},
        ReasonCase{"SparseCsc", [] { return at::zeros({3, 3}).to_sparse_csc(); }, sparse_layout,
                   false},
        ReasonCase{"SparseBsr", [] { return at::zeros({4, 4}).to_sparse_bsr({2, 2}); },
                   sparse_layout, false},
        ReasonCase{"Quantized",
                   [] { return at::quantize_per_tensor(at::zeros({3}), 0.1, 0, at::kQInt8); },
                   quantized_tensor, false},
        ReasonCase{"Nested",
                   [] {
                     const std::vector<at::Tensor> rows{at::zeros({2}), at::zeros({3})};
                     return at::_nested_tensor_from_tensor_list(rows);
                   },
                   nested_tensor, false},
        ReasonCase{"Meta", [] { return at::empty({3}, at::device(at::kMeta)); }, meta_tensor,
                   false},
        ReasonCase{"Functional",
                   [] { return at::functionalization::impl::to_functional_tensor(at::zeros({3})); },
                   functional_tensor, false},
        ReasonCase{"Batched", [] { return at::functorch::makeBatched(at::zeros({3, 2}), 0, 1); },
                   functorch_tensor, false},
        ReasonCase{"PythonKey", python_tensor, fake_tensor, false},
        ReasonCase{"OtherBackend",
                   [] { return with_keys(c10::DispatchKeySet(c10::DispatchKey::XLA)); },
                   unsupported_keys, false},
        ReasonCase{"OtherFunctionality",
                   [] {
                     return with_keys(
                         c10::DispatchKeySet({c10::DispatchKey::CPU, c10::DispatchKey::Tracer}));
                   },
                   unsupported_keys, false},
        ReasonCase{"SymbolicShape", symbolic_tensor, symbolic_shape, false},
        ReasonCase{"NoStorage",
                   [] {
                     return at::detail::make_tensor<c10::TensorImpl>(
                         c10::DispatchKeySet(c10::DispatchKey::CPU),
                         caffe2::TypeMeta::Make<float>(), c10::Device(c10::kCPU));
                   },
                   storage_inaccessible, false},
        ReasonCase{"UnreadableStorage", unreadable_tensor, storage_inaccessible},
        ReasonCase{"UnwritableStorage", unwritable_tensor, storage_inaccessible},
        ReasonCase{"ShapeThatARefusedResizeLeft", after_a_refused_resize, storage_too_small},
        ReasonCase{"ShrunkStorage", [] { return with_shrunk_storage(at::zeros({4}), 15); },
                   storage_too_small},
        ReasonCase{"ShrunkStorageBehindAnOffset",
                   [] { return with_shrunk_storage(at::zeros({8}).narrow(0, 7, 1), 31); },
                   storage_too_small},
        ReasonCase{"ShrunkStorageUnderAColumn",
                   [] { return with_shrunk_storage(at::zeros({3, 3}).select(1, 1), 31); },
                   storage_too_small},
        ReasonCase{"ShapeBeyondCounting",
                   [] {
                     at::Tensor tensor = at::zeros({4});
                     constexpr int64_t kHuge = int64_t{1} << 62;
                     tensor.unsafeGetTensorImpl()->set_sizes_and_strides(Dims{3}, Dims{kHuge});
                     return tensor;
                   },
                   storage_too_small},
        ReasonCase{"RequiresGrad", [] { return at::zeros({3}).requires_grad_(); }, requires_grad},
        ReasonCase{"ResultWithHistory", [] { return at::zeros({3}).requires_grad_() * 2; },
                   requires_grad},
        ReasonCase{"ConjOfRequiresGrad", [] { return complex_tensor().requires_grad_().conj(); },
                   ReasonSet(requires_grad) | conj_bit},
        ReasonCase{"LazyClone", [] { return at::_lazy_clone(at::zeros({3})); }, copy_on_write},
        ReasonCase{"SourceOfALazyClone", copy_on_write_source, copy_on_write},
        ReasonCase{"ViewOfALazyClone",
                   [] { return at::_lazy_clone(at::zeros({4})).narrow(0, 1, 2); }, copy_on_write}),
    [](const auto& row_info) { return std::string(row_info.param.name); });

TEST(DescribeMkldnn, IsRefused) {
  at::Tensor tensor;
  try {
    tensor = at::zeros({3}).to_mkldnn();
  } catch (const c10::Error& error) {
    GTEST_SKIP() << "this torch makes no mkldnn tensors: " << error.what_without_backtrace();
  }
  const Loan loan = described(tensor);
  EXPECT_EQ(loan.view().reasons, ReasonSet(ErrorCode::mkldnn_layout));
}

TEST(Describe, RefusesGradWrappers) {
  const at::Tensor wrapper = with_keys(
      c10::DispatchKeySet({c10::DispatchKey::CPU, c10::DispatchKey::FuncTorchGradWrapper}));
  const Loan loan = described(wrapper);
  EXPECT_EQ(loan.view().reasons, ReasonSet(ErrorCode::functorch_tensor));
}

TEST(Describe, AllowsGradWithoutGradMode) {
  const at::Tensor leaf = at::zeros({3}).requires_grad_();
  const at::Tensor result = leaf * 2;
  const c10::AutoGradMode no_grad(false);
  for (const at::Tensor& tensor : {leaf, result}) {
    const Loan loan = described(tensor);
    EXPECT_TRUE(loan.view().reasons.empty());
  }
}

TEST(Describe, AllowsAutogradKeys) {
  const at::Tensor detached = at::zeros({3}).requires_grad_().detach();
  const at::Tensor inference = [] {
    const c10::InferenceMode mode;
    return at::zeros({3});
  }();
  ASSERT_NE(detached.key_set().raw_repr(), inference.key_set().raw_repr());
  for (const at::Tensor& tensor : {detached, inference}) {
    const Loan loan = described(tensor);
    EXPECT_TRUE(loan.view().reasons.empty());
  }
}

TEST(Describe, AllowsExactStorages) {
  for (const at::Tensor& tensor : {with_shrunk_storage(at::zeros({4}), 16),
                                   with_shrunk_storage(at::zeros({8}).narrow(0, 3, 2), 20),
                                   with_shrunk_storage(at::zeros({3, 3}).select(1, 1), 32),
                                   with_shrunk_storage(at::zeros({1}), 4).expand({1000}),
                                   with_shrunk_storage(at::zeros({4}).narrow(0, 4, 0), 0)}) {
    const Loan loan = described(tensor);
    EXPECT_TRUE(loan.view().reasons.empty()) << tensor.sizes();
  }
}

TEST(Describe, ClearedErrorIsAccessible) {
  const at::Tensor tensor = unreadable_tensor();
  storage_of(tensor).clear_data_ptr_access_error_msg_();
  const Loan loan = described(tensor);
  EXPECT_TRUE(loan.view().reasons.empty());
}

TEST(Describe, CopyOnWriteEndsWithTheWrite) {
  at::Tensor clone = at::_lazy_clone(at::zeros({3}));
  clone.add_(1);
  const Loan loan = described(clone);
  EXPECT_TRUE(loan.view().reasons.empty());
}

TEST(Describe, KeepsCopyOnWrite) {
  const at::Tensor source = at::zeros({3});
  const at::Tensor clone = at::_lazy_clone(source);
  const Loan loan = described(clone);
  EXPECT_EQ(clone.const_data_ptr(), source.const_data_ptr());
  EXPECT_EQ(loan.view().data, source.const_data_ptr());
}

}  // namespace
}  // namespace dlbridge
