// SPDX-License-Identifier: Apache-2.0
// Loan -> at::Tensor, and torch's memory for copies.
#include <ATen/core/Tensor.h>
#include <ATen/ops/lift_fresh.h>
#include <ATen/ops/real.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <bit>
#include <new>
#include <string>

#include "dlbridge/copy.h"
#include "dlbridge/layout.h"
#include "dlbridge/torch.h"
#include "dlbridge/torch_common/layout.h"
#include "dtype_table.h"
#include "plain_dispatch.h"
#include "shared_bytes.h"
#include "spare_blocks.h"

namespace dlbridge {
namespace {

using torch_common::Layout;
using torch_common::normalize_strides;

[[noreturn]] void refuse_dtype(DLDataType dtype) {
  throw Error(ErrorCode::unsupported_dtype, "dtype",
              "dtype is " + DType(dtype).name() + ", which torch does not have");
}

[[gnu::always_inline]] inline caffe2::TypeMeta type_meta(DLDataType dtype) {
  const at::ScalarType scalar = lookup_scalar_type(dtype);
  if (scalar == at::ScalarType::Undefined) [[unlikely]]
    refuse_dtype(dtype);
  return caffe2::TypeMeta::fromScalarType(scalar);
}

c10::Device other_device(DLDevice device) {
  const DeviceType type = Device(device).type();
  if (type == DeviceType::cuda_host) return c10::Device(c10::kCPU);
  if ((type == DeviceType::cuda || type == DeviceType::cuda_managed) && device.device_id >= 0 &&
      device.device_id <= INT8_MAX)
    return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device.device_id));
  throw Error(ErrorCode::unsupported_device, "device",
              "device is " + Device(device).name() + ", which torch does not support");
}

c10::Device torch_device(DLDevice device) {
  if (device.device_type == kDLCPU) [[likely]]
    return c10::Device(c10::kCPU);
  return other_device(device);
}

// A TensorImpl made with its layout, which set_sizes_and_strides() would compute again. Without it
// the bar of to_torch in benchmarks/overhead.py fails (1.8, direct tier). Adds no state to
// TensorImpl.
class StridedImpl final : public c10::TensorImpl {
 public:
  StridedImpl(c10::Storage&& storage, c10::DispatchKeySet keys, caffe2::TypeMeta meta,
              const TensorView& view, int64_t offset, const Layout& layout)
      : TensorImpl(std::move(storage), keys, meta) {
    const auto rank = static_cast<size_t>(view.ndim);
    sizes_and_strides_.resize(rank);
    int64_t* sizes = sizes_and_strides_.sizes_data();
    int64_t* strides = sizes_and_strides_.strides_data();
    for (size_t i = 0; i < rank; ++i) {  // in one loop: no call of memcpy
      sizes[i] = view.shape[i];
      strides[i] = view.strides[i];
    }
    storage_offset_ = offset;
    numel_ = layout.numel;
    // A new TensorImpl says contiguous and dense. Channels-last begins at rank 4.
    if (rank >= 4 || (layout.dense && !layout.contiguous)) {
      refresh_contiguous();
    } else if (!layout.contiguous) {
      is_contiguous_ = false;
      is_non_overlapping_and_dense_ = false;
    }
  }

  static void* operator new(size_t size) { return SpareBlocks<StridedImpl>::take(size); }
  static void operator delete(void* block) noexcept { SpareBlocks<StridedImpl>::put(block); }
};

[[gnu::always_inline]] inline at::Tensor make_tensor(c10::intrusive_ptr<c10::StorageImpl>&& storage,
                                                     int64_t offset, const TensorView& view,
                                                     const Layout& layout, caffe2::TypeMeta meta) {
  const auto key =
      storage->device_type() == c10::kCUDA ? c10::DispatchKey::CUDA : c10::DispatchKey::CPU;
  return at::Tensor(c10::make_intrusive<StridedImpl>(
      c10::Storage(std::move(storage)), c10::DispatchKeySet(key), meta, view, offset, layout));
}

// The tensor over the original storage, if it still exists and holds all of the view.
at::Tensor over_original(const Loan& loan, const Layout& layout, caffe2::TypeMeta meta) {
  auto storage = original_storage(loan.original);
  if (!storage) return {};
  const TensorView& view = loan.view();
  const int64_t offset = static_cast<char*>(view.data) -
                         static_cast<char*>(storage->_mutable_data_ptr_no_checks().get());
  // Every type of torch's has a power of two as its size.
  const int shift = std::countr_zero(static_cast<uint64_t>(meta.itemsize()));
  if (offset < 0 || (offset >> shift) << shift != offset ||
      offset + layout.bytes > static_cast<int64_t>(storage->nbytes())) {
    return {};
  }
  return make_tensor(std::move(storage), offset >> shift, view, layout, meta);
}

// Replaces a deleter without a context by one with a context.
void box_deleter(Loan& loan) {
  auto* box = new Deleter(loan.deleter());
  (void)loan.release_deleter();
  loan.attach({box, [](void* context) noexcept {
                 auto* boxed = static_cast<Deleter*>(context);
                 boxed->release(boxed->context);
                 delete boxed;
               }});
}

// `allocator`: where resize_ takes more memory from; null: a storage that cannot be resized.
// Inlined into to_tensor(), which is hot.
[[gnu::always_inline]] inline at::Tensor new_storage(Loan& loan, const Layout& layout,
                                                     caffe2::TypeMeta meta,
                                                     c10::Allocator* allocator = nullptr) {
  const TensorView& view = loan.view();
  const c10::Device device = torch_device(view.device);
  // A DataPtr without a context never calls its deleter.
  if (loan.deleter().release != nullptr && loan.deleter().context == nullptr) [[unlikely]]
    box_deleter(loan);
  // The DataPtr owns from here on, also if something throws.
  const Deleter deleter = loan.release_deleter();
  at::DataPtr data(view.data, deleter.context, deleter.release, device);
  c10::intrusive_ptr<c10::StorageImpl> storage = c10::make_intrusive<LoanStorage>(
      c10::StorageImpl::use_byte_size_t(),
      c10::SymInt(c10::SymInt::UNCHECKED, std::max<int64_t>(layout.bytes, 0)), std::move(data),
      allocator,
      /*resizable=*/allocator != nullptr);
  return make_tensor(std::move(storage), 0, view, layout, meta);
}

// A tensor over memory that the caller keeps alive while it is used.
at::Tensor borrow(const TensorView& memory) { return to_tensor(torch_common::borrow(memory)); }

}  // namespace

at::Tensor finish_copy(at::Tensor&& tensor) {
  if (dispatch_is_plain()) [[likely]]
    return std::move(tensor);
  return at::lift_fresh(tensor);
}

at::Tensor reuse_storage(Loan& loan) {
  if (loan.original.release == nullptr) return {};
  const caffe2::TypeMeta meta = type_meta(loan.view().dtype);
  at::Tensor tensor = over_original(loan, normalize_strides(loan), meta);
  return tensor.defined() ? finish_copy(std::move(tensor)) : tensor;
}

at::Tensor to_tensor(Loan&& loan) {
  if (loan.original.release != nullptr) {
    if (at::Tensor tensor = reuse_storage(loan); tensor.defined()) {
      loan.reset();
      return tensor;
    }
  }
  const caffe2::TypeMeta meta = type_meta(loan.view().dtype);
  const Layout layout = normalize_strides(loan);
  return finish_copy(new_storage(loan, layout, meta));
}

[[gnu::cold]] at::Tensor to_guarded_tensor(Loan&& loan, OnWrite on_write) {
  if (guard_of(loan.original) != on_write) loan.original = {};
  at::Tensor tensor;
  {
    const PlainDispatchGuard plain;
    tensor = to_tensor(std::move(loan));
  }
  c10::StorageImpl& storage = *tensor.storage().unsafeGetStorageImpl();
  if (storage.nbytes() > 0 && guard_of(storage) == OnWrite::unset) guard_storage(storage, on_write);
  return finish_copy(std::move(tensor));
}

namespace {

constexpr size_t kAlignment = 64;

// Memory of small results, which a thread reuses as it does torch's objects: up to `blocks` of
// `bytes` each.
template <size_t bytes, size_t blocks>
struct SmallBytes {
  char memory[bytes + kAlignment];
  using Spare = SpareBlocks<SmallBytes, blocks>;

  static Deleter take(void*& data) {
    void* block = Spare::take(sizeof(SmallBytes));
    data = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(block) + kAlignment - 1) &
                                   ~(kAlignment - 1));
    return {block, Spare::put};
  }
};
constexpr size_t kSmall = 1024;
constexpr size_t kMedium = 32 * 1024;

}  // namespace

at::Tensor empty_tensor(const TensorView& like, DLDataType dtype, Loan& memory) {
  const caffe2::TypeMeta meta = type_meta(dtype);
  TensorView typed = like;
  typed.dtype = dtype;
  typed.subbyte_padded = false;
  const auto bytes = static_cast<size_t>(typed.nbytes());
  if (bytes <= kMedium) {
    memory.set_rank(like.ndim);
    std::copy_n(like.shape, like.ndim, memory.shape());
    dense_strides_like(like, memory.strides());
    memory.view().dtype = dtype;
    void*& data = memory.view().data;
    memory.attach(bytes <= kSmall ? SmallBytes<kSmall, 64>::take(data)
                                  : SmallBytes<kMedium, 8>::take(data));
  } else {
    memory = allocate_like(typed);
  }
  return new_storage(memory, normalize_strides(memory), meta, c10::GetCPUAllocator());
}

void fill_from_tensor(const at::Tensor& tensor, const TensorView& dst) {
  const PlainDispatchGuard plain;
  const c10::AutoGradMode no_grad(false);
  try {
    const at::Tensor target = borrow(dst);
    const bool real = tensor.is_complex() && !target.is_complex() && target.dtype() != at::kBool;
    target.copy_(real ? at::real(tensor) : tensor);
  } catch (const c10::Error& error) {
    throw Error(ErrorCode::framework_error, "tensor",
                std::string("torch could not copy the tensor: ") + error.what_without_backtrace());
  }
}

void cast_with_torch(const TensorView& src, const TensorView& dst) {
  const PlainDispatchGuard plain;
  fill_from_tensor(borrow(src), dst);
}

}  // namespace dlbridge
