// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/managed_tensor.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <string>
#include <type_traits>

#include "dlbridge/validate.h"

namespace dlbridge {
namespace {

[[noreturn]] void refuse_null() {
  throw Error(ErrorCode::null_descriptor, "descriptor",
              "descriptor is null; expected a DLPack managed tensor");
}

// What stands before shape and strides in the one allocation.
template <typename Managed>
struct Block {
  Managed managed;
  Deleter deleter;
};

template <typename Managed>
void delete_block(Managed* managed) noexcept {
  auto* block = static_cast<Block<Managed>*>(managed->manager_ctx);
  const Deleter deleter = block->deleter;
  std::free(block);
  if (deleter) deleter.release(deleter.context);
}

template <typename Managed>
Managed* make_block(Loan& loan) {
  const TensorView& view = loan.view();
  const auto rank = static_cast<size_t>(view.ndim);
  void* memory = std::malloc(sizeof(Block<Managed>) + 2 * rank * sizeof(int64_t));
  if (memory == nullptr) throw std::bad_alloc();
  auto* block = new (memory) Block<Managed>{};
  auto* dims = reinterpret_cast<int64_t*>(block + 1);
  std::copy_n(view.shape, rank, dims);
  std::copy_n(view.strides, rank, dims + rank);
  DLDevice device = view.device;
  if (Device(device).is_host()) device.device_id = 0;  // docs/reference/rules.md#24
  block->managed.dl_tensor = {view.data, device,      view.ndim,       view.dtype,
                              dims,      dims + rank, view.byte_offset};
  block->managed.manager_ctx = block;
  block->managed.deleter = delete_block<Managed>;
  block->deleter = loan.release_deleter();
  return &block->managed;
}

template <typename Managed>
Deleter deleter_of_any(Managed* managed) noexcept {
  return {managed, [](void* context) noexcept {
            auto* tensor = static_cast<Managed*>(context);
            if (tensor->deleter) tensor->deleter(tensor);
          }};
}

}  // namespace

void describe_managed(const DLManagedTensorVersioned* managed, Loan& loan) {
  if (managed == nullptr) refuse_null();
  if (managed->version.major != kDLPackMajor) {
    throw Error(ErrorCode::unsupported_version, "version",
                "version is " + std::to_string(managed->version.major) +
                    ".x; expected major version 1: ask the producer for max_version=(1, 3)");
  }
  const uint64_t flags = managed->flags;
  read_descriptor(managed->dl_tensor,
                  {.access = (flags & kReadOnly) ? Access::read_only : Access::writable,
                   .is_copied = (flags & kIsCopied) != 0,
                   .subbyte_padded = (flags & kSubbytePadded) != 0},
                  loan);
}

void describe_managed(const DLManagedTensor* managed, Loan& loan) {
  if (managed == nullptr) refuse_null();
  read_descriptor(managed->dl_tensor, {}, loan);
}

Deleter deleter_of(DLManagedTensorVersioned* managed) noexcept { return deleter_of_any(managed); }
Deleter deleter_of(DLManagedTensor* managed) noexcept { return deleter_of_any(managed); }

DLManagedTensorVersioned* to_managed(Loan&& loan) {
  const uint32_t flags = loan.view().flags();
  auto* managed = make_block<DLManagedTensorVersioned>(loan);
  managed->version = {kDLPackMajor, kDLPackMinor};
  managed->flags = flags;
  return managed;
}

DLManagedTensor* to_managed_legacy(Loan&& loan) {
  if (loan.view().access == Access::read_only) {
    throw Error(ErrorCode::read_only, "flags",
                "the memory is read-only, which a legacy capsule cannot say: "
                "pass max_version=(1, 3) to __dlpack__");
  }
  require_no_padding(loan.view());
  return make_block<DLManagedTensor>(loan);
}

void require_no_padding(const TensorView& view) {
  if (!view.subbyte_padded) return;
  throw Error(ErrorCode::unsupported_dtype, "dtype",
              "dtype is " + DType(view.dtype).name() +
                  ", padded to whole bytes, which a descriptor without flags cannot say; expected "
                  "a versioned descriptor: pass max_version=(1, 3) to __dlpack__");
}

}  // namespace dlbridge
