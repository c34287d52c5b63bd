// SPDX-License-Identifier: Apache-2.0
// The only include of <dlpack/dlpack.h>.
//
// PyTorch ships a copy of the header under the same include guard, so the first one included wins.
// Public headers of dlbridge name only types of DLPack 1.0; later enum values are plain numbers
// here. The layout that the library relies on is asserted (64-bit platforms).
#pragma once

#include <dlpack/dlpack.h>

#include <cstddef>
#include <cstdint>

static_assert(sizeof(void*) == 8, "dlbridge needs a 64-bit platform");
static_assert(sizeof(DLDataType) == 4 && sizeof(DLDevice) == 8);
static_assert(sizeof(DLTensor) == 48);
static_assert(offsetof(DLTensor, device) == 8 && offsetof(DLTensor, ndim) == 16 &&
              offsetof(DLTensor, dtype) == 20 && offsetof(DLTensor, shape) == 24 &&
              offsetof(DLTensor, strides) == 32 && offsetof(DLTensor, byte_offset) == 40);
static_assert(sizeof(DLManagedTensor) == 64 && offsetof(DLManagedTensor, manager_ctx) == 48 &&
              offsetof(DLManagedTensor, deleter) == 56);
static_assert(sizeof(DLManagedTensorVersioned) == 80 &&
              offsetof(DLManagedTensorVersioned, manager_ctx) == 8 &&
              offsetof(DLManagedTensorVersioned, deleter) == 16 &&
              offsetof(DLManagedTensorVersioned, flags) == 24 &&
              offsetof(DLManagedTensorVersioned, dl_tensor) == 32);

namespace dlbridge {

/// The DLPack version that dlbridge writes into what it exports.
inline constexpr uint32_t kDLPackMajor = 1;
inline constexpr uint32_t kDLPackMinor = 3;

/// Flag bits of DLManagedTensorVersioned::flags (the third exists since DLPack 1.1).
enum TensorFlag : uint32_t {
  kReadOnly = 1u << 0,
  kIsCopied = 1u << 1,
  kSubbytePadded = 1u << 2,
};

}  // namespace dlbridge
