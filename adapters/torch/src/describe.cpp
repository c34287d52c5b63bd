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

// Of a type that DLPack does not have. Returns the size of an element.
[[gnu::noinline, gnu::cold]] int64_t refuse_dtype(caffe2::TypeMeta meta,
                                                  TensorView& view) noexcept {
  view.reasons.add(ErrorCode::unsupported_dtype);
  view.detail = detail_of(c10::typeMetaToScalarType(meta));
  return static_cast<int64_t>(meta.itemsize());
}

// Null where DLPack does not have the type.
const TorchDType* find_dtype(caffe2::TypeMeta meta) noexcept {
  if (!meta.isScalarType()) return nullptr;
  const TorchDType& found = kByScalar[static_cast<size_t>(meta.toScalarType())];
  return found.held ? &found : nullptr;
}

[[gnu::always_inline]] inline bool has_size(const c10::Storage& storage) {
  return storage && !storage.sym_nbytes().is_heap_allocated();
}

// Describes what is special about a storage that is guarded, copy-on-write or inaccessible. Returns
// false if its memory must not be looked at.
[[gnu::noinline, gnu::cold]] bool describe_special(c10::StorageImpl& storage, bool accessible,
                                                   TensorView& view) noexcept {
  if (guard_of(storage) != OnWrite::unset) {
    view.access = Access::read_only;
    if (view.detail == nullptr) view.detail = &torch_common::kGuarded;
    return true;
  }
  view.reasons.add(accessible ? ErrorCode::copy_on_write : ErrorCode::storage_inaccessible);
  return accessible;
}

// Dtype, device, layout and memory. Requires: has_size(), sizes that are numbers.
[[gnu::always_inline]] inline void describe_memory(const c10::TensorImpl& impl, DLDevice device,
                                                   const TorchDType* dtype, Loan& loan) {
  TensorView& view = loan.view();
  const c10::IntArrayRef sizes = impl.sizes();
  const c10::IntArrayRef strides = impl.strides();
  const int64_t offset = impl.storage_offset();
  c10::StorageImpl& storage = *impl.unsafe_storage().unsafeGetStorageImpl();
  view.device = device;
  if (dtype != nullptr) [[likely]]
    view.dtype = dtype->dtype;
  const int64_t itemsize = dtype != nullptr ? dtype->itemsize : refuse_dtype(impl.dtype(), view);
  const int64_t reach = torch_common::copy_layout(sizes, strides, loan);
  const bool accessible = !is_inaccessible(storage);
  if ((!accessible || is_copy_on_write(storage)) && !describe_special(storage, accessible, view))
      [[unlikely]]
    return;
  if (!torch_common::fits(offset, reach, itemsize, static_cast<int64_t>(storage.nbytes())))
      [[unlikely]]
    view.reasons.add(ErrorCode::storage_too_small);
  auto* base = static_cast<char*>(storage._mutable_data_ptr_no_checks().get());
  view.data = base == nullptr ? nullptr : base + offset * itemsize;
}

[[gnu::noinline, gnu::cold]] void describe_any(const at::Tensor& tensor, Loan& loan) {
  if (!tensor.defined()) return describe_reason(ErrorCode::undefined_tensor, loan);
  const c10::TensorImpl& impl = *tensor.unsafeGetTensorImpl();
  const uint64_t beyond = kKeys.beyond_plain(impl.key_set().raw_repr());
  if (!torch_common::describe_keys(kKeys, beyond, loan)) return;
  if (impl.has_symbolic_sizes_strides()) return describe_reason(ErrorCode::symbolic_shape, loan);
  // has_storage() of these keys, without a virtual call.
  if (!impl.unsafe_storage()) return describe_reason(ErrorCode::storage_inaccessible, loan);
  if (!has_size(impl.unsafe_storage())) return describe_reason(ErrorCode::symbolic_shape, loan);
  if (impl.requires_grad() && c10::GradMode::is_enabled())
    loan.view().reasons.add(ErrorCode::requires_grad);
  const DLDevice device =
      impl.is_cpu() ? Device(DeviceType::cpu) : Device(DeviceType::cuda, impl.device().index());
  describe_memory(impl, device, find_dtype(impl.dtype()), loan);
}

// Whether `impl` is plain, on the CPU, and holds its sizes and strides itself: then describing it
// calls nothing, and nothing is saved on the stack.
struct Usual : c10::TensorImpl {
  static bool is(const c10::TensorImpl& impl) noexcept {
    return kKeys.beyond_plain(impl.key_set().raw_repr()) == 0 && !impl.requires_grad() &&
           impl.is_cpu() && !(impl.*&Usual::matches_policy)(SizesStridesPolicy::CustomStrides) &&
           !impl.has_symbolic_sizes_strides() && has_size(impl.unsafe_storage());
  }
};

}  // namespace

void describe(const at::Tensor& tensor, Loan& loan) {
  const c10::TensorImpl& impl = *tensor.unsafeGetTensorImpl();
  const TorchDType* dtype = nullptr;
  if (Usual::is(impl)) [[likely]]  // not an undefined tensor, which has no storage
    dtype = find_dtype(impl.dtype());
  if (dtype == nullptr) [[unlikely]]
    return describe_any(tensor, loan);
  describe_memory(impl, Device(DeviceType::cpu), dtype, loan);
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
