// at::Tensor -> Loan.
#include <c10/core/GradMode.h>
#include <c10/core/impl/COW.h>

#include <algorithm>

#include "dlbridge/torch.h"
#include "dtype_table.h"
#include "shared_bytes.h"

namespace dlbridge {
namespace {

using c10::DispatchKey;
using c10::DispatchKeySet;

// The one allowlist: a dense tensor on the CPU or a CUDA device, with what autograd and autocast
// add. The Python type proves nothing (a FakeTensor may look like a Parameter); the keys do. Kept
// as bits: DispatchKeySet's own difference leaves backend bits in.
const uint64_t kPlainKeys =
    DispatchKeySet({DispatchKey::CPU, DispatchKey::CUDA, DispatchKey::AutogradCPU,
                    DispatchKey::AutogradCUDA, DispatchKey::ADInplaceOrView,
                    DispatchKey::AutocastCPU, DispatchKey::AutocastCUDA})
        .raw_repr();

struct KeyReason {
  DispatchKey key;
  ErrorCode code;
};

// Which refusal a key stands for, by the bits it has beyond the plain ones.
constexpr KeyReason kKeyReasons[] = {
    {DispatchKey::Conjugate, ErrorCode::conj_bit},
    {DispatchKey::Negative, ErrorCode::neg_bit},
    {DispatchKey::ZeroTensor, ErrorCode::zero_tensor},
    {DispatchKey::SparseCPU, ErrorCode::sparse_layout},
    {DispatchKey::SparseCsrCPU, ErrorCode::sparse_layout},
    {DispatchKey::QuantizedCPU, ErrorCode::quantized_tensor},
    {DispatchKey::NestedTensorCPU, ErrorCode::nested_tensor},
    {DispatchKey::MkldnnCPU, ErrorCode::mkldnn_layout},
    {DispatchKey::Python, ErrorCode::fake_tensor},
    {DispatchKey::FuncTorchGradWrapper, ErrorCode::functorch_tensor},
    {DispatchKey::FuncTorchBatched, ErrorCode::functorch_tensor},
    {DispatchKey::BatchedNestedTensor, ErrorCode::functorch_tensor},
    {DispatchKey::Functionalize, ErrorCode::functional_tensor},
    {DispatchKey::Meta, ErrorCode::meta_tensor},
};

ReasonSet key_reasons(uint64_t extra) noexcept {
  ReasonSet reasons;
  for (const KeyReason& row : kKeyReasons) {
    const uint64_t bits = DispatchKeySet(row.key).raw_repr() & ~kPlainKeys;
    if (bits != 0 && (extra & bits) == bits) reasons.add(row.code);
  }
  if (reasons.empty()) reasons.add(ErrorCode::unsupported_keys);
  return reasons;
}

// Younger torch keeps a materializer beside the deleter; older ones have the deleter alone.
template <typename Storage>
bool is_copy_on_write(const Storage& storage) {
  if constexpr (requires { storage.has_materializer(); }) return storage.has_materializer();
  return c10::impl::cow::is_cow_data_ptr(storage.data_ptr());
}

template <typename Storage>
bool is_inaccessible(const Storage& storage) {
  if constexpr (requires { storage.throw_on_immutable_data_ptr(); })
    return storage.throw_on_immutable_data_ptr() || storage.throw_on_mutable_data_ptr();
  try {
    (void)storage.data_ptr();
  } catch (const std::exception&) {
    return true;
  }
  return false;
}

constexpr ReasonSet kCurableKeys =
    ReasonSet(ErrorCode::conj_bit) | ErrorCode::neg_bit | ErrorCode::zero_tensor;

// No memory may be looked at: rank 0 and the reasons are all there is to say.
void describe_obstacle(ReasonSet reasons, Loan& loan) {
  loan.set_rank(0);
  loan.view().obstacles = reasons;
}

DLDevice device_of(const c10::TensorImpl& impl) noexcept {
  if (impl.is_cpu()) [[likely]]
    return Device(DeviceType::cpu);
  return Device(DeviceType::cuda, impl.device().index());
}

void describe_dtype(at::ScalarType scalar, TensorView& view) noexcept {
  const auto index = static_cast<size_t>(scalar);
  if (index < kByScalar.size() && kByScalar[index].held) [[likely]] {
    view.dtype = kByScalar[index].dtype;
  } else {
    view.obstacles.add(ErrorCode::unsupported_dtype);
    view.found = c10::toString(scalar);
  }
}

// Copies extents and strides; returns how many elements lie between the first and the end of the
// last, INT64_MAX where they cannot be counted.
int64_t copy_layout(c10::IntArrayRef sizes, c10::IntArrayRef strides, Loan& loan) {
  loan.set_rank(static_cast<int32_t>(sizes.size()));
  int64_t end = 1;
  bool empty = false;
  bool overflow = false;
  for (size_t i = 0; i < sizes.size(); ++i) {
    loan.shape()[i] = sizes[i];
    loan.strides()[i] = strides[i];
    empty |= sizes[i] == 0;
    int64_t step = 0;
    overflow |= sizes[i] > 1 && (__builtin_mul_overflow(sizes[i] - 1, strides[i], &step) ||
                                 __builtin_add_overflow(end, step, &end));
  }
  if (empty) return 0;
  return overflow ? INT64_MAX : end;
}

// A refused resize_ leaves torch with a shape that its storage does not hold.
bool fits(int64_t offset, int64_t reach, int64_t itemsize, int64_t storage_bytes) noexcept {
  int64_t end = 0;
  return reach == 0 || (!__builtin_add_overflow(offset, reach, &end) &&
                        !__builtin_mul_overflow(end, itemsize, &end) && end <= storage_bytes);
}

}  // namespace

void describe(const at::Tensor& tensor, Loan& loan) {
  if (!tensor.defined()) return describe_obstacle(ErrorCode::undefined_tensor, loan);
  const c10::TensorImpl& impl = *tensor.unsafeGetTensorImpl();
  TensorView& view = loan.view();
  const uint64_t extra = impl.key_set().raw_repr() & ~kPlainKeys;
  if (extra != 0) [[unlikely]] {
    const ReasonSet reasons = key_reasons(extra);
    if (!reasons.without(kCurableKeys).empty()) return describe_obstacle(reasons, loan);
    view.obstacles = reasons;
  }
  if (impl.has_symbolic_sizes_strides()) return describe_obstacle(ErrorCode::symbolic_shape, loan);
  if (!impl.has_storage()) return describe_obstacle(ErrorCode::storage_inaccessible, loan);

  const c10::IntArrayRef sizes = impl.sizes();
  const c10::IntArrayRef strides = impl.strides();
  const int64_t reach = copy_layout(sizes, strides, loan);
  describe_dtype(tensor.scalar_type(), view);
  view.device = device_of(impl);
  if (impl.requires_grad() && c10::GradMode::is_enabled())
    view.obstacles.add(ErrorCode::requires_grad);

  c10::StorageImpl& storage = *impl.unsafe_storage().unsafeGetStorageImpl();
  if (is_inaccessible(storage)) {
    view.obstacles.add(ErrorCode::storage_inaccessible);
    return;
  }
  if (is_copy_on_write(storage)) view.obstacles.add(ErrorCode::copy_on_write);
  const auto itemsize = static_cast<int64_t>(impl.dtype().itemsize());
  const c10::SymInt storage_bytes = storage.sym_nbytes();
  if (storage_bytes.is_heap_allocated()) [[unlikely]]
    return describe_obstacle(ErrorCode::symbolic_shape, loan);
  if (!fits(impl.storage_offset(), reach, itemsize, storage_bytes.as_int_unchecked())) [[unlikely]]
    view.obstacles.add(ErrorCode::storage_too_small);
  auto* base = static_cast<char*>(storage._mutable_data_ptr_no_checks().get());
  view.data = base == nullptr ? nullptr : base + impl.storage_offset() * itemsize;
}

void lend(const at::Tensor& tensor, Loan& loan) {
  const Owner owner =
      share_storage(*tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl());
  loan.attach(owner);
  loan.origin = owner;
}

Loan share(const at::Tensor& tensor) {
  Loan loan;
  describe(tensor, loan);
  const Plan decision = plan(loan.view(), neutral_traits(), {});
  if (decision.verdict != Verdict::share)
    throw refusal(loan.view(), neutral_traits(), {}, decision);
  lend(tensor, loan);
  return loan;
}

}  // namespace dlbridge
