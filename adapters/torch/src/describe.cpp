// SPDX-License-Identifier: Apache-2.0
// at::Tensor -> Loan.
#include <c10/core/GradMode.h>

#include "dlbridge/torch.h"
#include "dlbridge/torch_common/dispatch_keys.h"
#include "dlbridge/torch_common/layout.h"
#include "dlbridge/torch_common/traits.h"
#include "dtype_table.h"
#include "shared_bytes.h"
#include "torch_versions.h"

namespace dlbridge {
namespace {

using c10::DispatchKeySet;
using torch_common::describe_reason;

const torch_common::KeyJudge kKeys([](const char* name) {
  return DispatchKeySet(c10::parseDispatchKey(name)).raw_repr();
});

DLDevice device_of(const c10::TensorImpl& impl) noexcept {
  if (impl.is_cpu()) [[likely]]
    return Device(DeviceType::cpu);
  return Device(DeviceType::cuda, impl.device().index());
}

// Of a type that DLPack does not have.
const ReasonDetail* detail_of(at::ScalarType scalar) noexcept {
  static const auto details = [] {
    std::array<ReasonDetail, kScalarTypes> table{};
    for (size_t i = 0; i < table.size(); ++i) {
      const auto type = static_cast<at::ScalarType>(i);
      const size_t itemsize = caffe2::TypeMeta::fromScalarType(type).itemsize();
      table[i] = {c10::toString(type),
                  torch_common::remedy_for_itemsize(static_cast<int64_t>(itemsize))};
    }
    return table;
  }();
  const auto index = static_cast<size_t>(scalar);
  return index < details.size() ? &details[index] : nullptr;
}

void describe_dtype(at::ScalarType scalar, TensorView& view) noexcept {
  const auto index = static_cast<size_t>(scalar);
  if (index < kByScalar.size() && kByScalar[index].held) [[likely]] {
    view.dtype = kByScalar[index].dtype;
  } else {
    view.reasons.add(ErrorCode::unsupported_dtype);
    view.detail = detail_of(scalar);
  }
}

}  // namespace

void describe(const at::Tensor& tensor, Loan& loan) {
  if (!tensor.defined()) return describe_reason(ErrorCode::undefined_tensor, loan);
  const c10::TensorImpl& impl = *tensor.unsafeGetTensorImpl();
  TensorView& view = loan.view();
  const uint64_t beyond = kKeys.beyond_plain(impl.key_set().raw_repr());
  if (!torch_common::describe_keys(kKeys, beyond, loan)) return;
  if (impl.has_symbolic_sizes_strides()) return describe_reason(ErrorCode::symbolic_shape, loan);
  // has_storage() of these keys, without a virtual call.
  if (!impl.unsafe_storage()) return describe_reason(ErrorCode::storage_inaccessible, loan);

  const c10::IntArrayRef sizes = impl.sizes();
  const c10::IntArrayRef strides = impl.strides();
  const int64_t reach = torch_common::copy_layout(sizes, strides, loan);
  describe_dtype(tensor.scalar_type(), view);
  view.device = device_of(impl);
  if (impl.requires_grad() && c10::GradMode::is_enabled())
    view.reasons.add(ErrorCode::requires_grad);

  c10::StorageImpl& storage = *impl.unsafe_storage().unsafeGetStorageImpl();
  if (is_inaccessible(storage)) {
    view.reasons.add(ErrorCode::storage_inaccessible);
    return;
  }
  if (is_copy_on_write(storage)) view.reasons.add(ErrorCode::copy_on_write);
  const auto itemsize = static_cast<int64_t>(impl.dtype().itemsize());
  const c10::SymInt storage_bytes = storage.sym_nbytes();
  if (storage_bytes.is_heap_allocated()) [[unlikely]]
    return describe_reason(ErrorCode::symbolic_shape, loan);
  if (!torch_common::fits(impl.storage_offset(), reach, itemsize, storage_bytes.as_int_unchecked()))
      [[unlikely]]
    view.reasons.add(ErrorCode::storage_too_small);
  auto* base = static_cast<char*>(storage._mutable_data_ptr_no_checks().get());
  view.data = base == nullptr ? nullptr : base + impl.storage_offset() * itemsize;
}

void acquire(const at::Tensor& tensor, Loan& loan) {
  const Deleter deleter =
      share_storage(*tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl());
  loan.attach(deleter);
  loan.original = deleter;
}

Loan share(const at::Tensor& tensor) {
  Loan loan;
  describe(tensor, loan);
  const Plan decision = plan(loan.view(), neutral_traits(), {});
  if (decision.verdict != Verdict::share)
    throw refusal(loan.view(), neutral_traits(), {}, decision);
  acquire(tensor, loan);
  return loan;
}

}  // namespace dlbridge
