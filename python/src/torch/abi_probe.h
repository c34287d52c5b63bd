// SPDX-License-Identifier: Apache-2.0
// Whether the loaded torch has the objects that its headers describe. Builds of one minor version
// should; one that does not would read and write beside them.
#pragma once

#include <c10/core/CPUAllocator.h>
#include <c10/core/TensorImpl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <new>

namespace dlbridge::python {

/// Lets torch's library construct a tensor and reads it as the headers say.
inline bool layout_matches_headers() {
  constexpr size_t kMargin = 512;
  constexpr auto kUnwritten = std::byte{0xa5};
  alignas(c10::TensorImpl) std::array<std::byte, sizeof(c10::TensorImpl) + kMargin> memory;
  memory.fill(kUnwritten);
  const auto beyond = [&memory] {
    return !std::all_of(memory.end() - kMargin, memory.end(),
                        [](std::byte b) { return b == kUnwritten; });
  };

  constexpr size_t kBytes = 24;
  auto storage = c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), kBytes,
                                                       c10::GetCPUAllocator(), /*resizable=*/true);
  c10::StorageImpl* const address = storage.get();
  const auto meta = caffe2::TypeMeta::Make<float>();
  constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::CPU);
  auto* tensor = new (memory.data()) c10::TensorImpl(c10::Storage(std::move(storage)), kKeys, meta);
  const bool matches = !beyond() && tensor->unsafe_storage().unsafeGetStorageImpl() == address &&
                       tensor->dim() == 1 && tensor->sizes()[0] == 0 && tensor->strides()[0] == 1 &&
                       tensor->numel() == 0 && tensor->storage_offset() == 0 &&
                       tensor->dtype() == meta && tensor->is_cpu() && tensor->is_contiguous() &&
                       !tensor->requires_grad() && tensor->key_set().has(c10::DispatchKey::CPU) &&
                       !tensor->has_symbolic_sizes_strides() && address->resizable() &&
                       address->nbytes() == kBytes;
  if (matches) std::destroy_at(tensor);  // left alone where it is not understood
  return matches;
}

}  // namespace dlbridge::python
