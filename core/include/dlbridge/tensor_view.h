// SPDX-License-Identifier: Apache-2.0
// TensorView: a description of strided memory. Trivially copyable; owns nothing.
#pragma once

#include <cstdint>
#include <span>

#include "dlbridge/device.h"
#include "dlbridge/dlpack.h"
#include "dlbridge/dtype.h"
#include "dlbridge/error.h"

namespace dlbridge {

/// How much is known about whether memory may be written.
enum class Access : uint8_t {
  writable,
  read_only,
  unknown,  ///< from a legacy capsule, which has no flag (docs/reference/rules.md#74)
};

/// What a source says about the first of its reasons. Static, or as old as the view's user.
struct ReasonDetail {
  const char* found = nullptr;   ///< name of what the reason is about, or null
  const char* remedy = nullptr;  ///< the source's own remedy, or null
};

/// A description of strided memory. `shape` and `strides` are borrowed from the Loan or descriptor
/// that the view was taken from.
struct TensorView {
  void* data = nullptr;  ///< first element (byte_offset folded in where the device has addresses)
  uint64_t byte_offset = 0;  ///< non-zero only where `data` is an opaque handle
  const int64_t* shape = nullptr;
  const int64_t* strides = nullptr;  ///< in elements; never null above rank 0
  int32_t ndim = 0;
  DLDevice device{static_cast<DLDeviceType>(1), 0};
  DLDataType dtype{2, 32, 1};
  Access access = Access::writable;
  bool is_copied = false;       ///< the memory was copied for this exchange (DLPack's IS_COPIED)
  bool subbyte_padded = false;  ///< elements below a byte are padded to one
  bool castable = false;        ///< the source casts its elements, though DLPack has no such type
  ReasonSet reasons;            ///< the source's own reasons against sharing (conj bit, mask …)
  const ReasonDetail* detail = nullptr;  ///< borrowed; null where there is nothing to add

  std::span<const int64_t> extents() const noexcept { return {shape, static_cast<size_t>(ndim)}; }
  std::span<const int64_t> stride_elements() const noexcept {
    return {strides, static_cast<size_t>(ndim)};
  }
  int64_t itemsize() const noexcept { return DType(dtype).itemsize(); }
  const char* found() const noexcept { return detail ? detail->found : nullptr; }
  const char* remedy() const noexcept { return detail ? detail->remedy : nullptr; }

  /// Product of the extents; 1 at rank 0. Requires: a validated view (no overflow).
  int64_t size() const noexcept {
    uint64_t count =
        1;  // unsigned: an empty shape may hold extents whose product wraps before the zero comes
    for (int32_t i = 0; i < ndim; ++i) count *= static_cast<uint64_t>(shape[i]);
    return static_cast<int64_t>(count);
  }
  bool is_empty() const noexcept {
    for (int32_t i = 0; i < ndim; ++i) {
      if (shape[i] == 0) return true;
    }
    return false;
  }

  /// Bytes that the elements need when packed densely; broadcast dimensions count in full, so that
  /// the number may be more than 64 bits can hold: then INT64_MAX.
  int64_t nbytes() const noexcept {
    const DType type(dtype);
    if (type.is_subbyte() && !subbyte_padded) {
      // In two steps: the bits of all elements may be more than 64 bits can count.
      return size() / 8 * type.item_bits() + (size() % 8 * type.item_bits() + 7) / 8;
    }
    int64_t bytes = 0;
    return __builtin_mul_overflow(size(), type.itemsize(), &bytes) ? INT64_MAX : bytes;
  }

  /// DLPack's flag word for this memory. Unknown access counts as read-only.
  uint32_t flags() const noexcept {
    return (access == Access::writable ? 0u : kReadOnly) | (is_copied ? kIsCopied : 0u) |
           (subbyte_padded ? kSubbytePadded : 0u);
  }
};

}  // namespace dlbridge
