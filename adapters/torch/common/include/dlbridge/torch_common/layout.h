// SPDX-License-Identifier: Apache-2.0
// Layouts out of torch and into it, for both tiers. Needs no torch header.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <span>

#include "dlbridge/layout.h"
#include "dlbridge/loan.h"

namespace dlbridge::torch_common {

/// Copies a tensor's extents and strides; returns how many elements lie between its first and the
/// end of its last, INT64_MAX where they cannot be counted. Throws std::bad_alloc.
inline int64_t copy_layout(std::span<const int64_t> sizes, std::span<const int64_t> strides,
                           Loan& loan) {
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

/// Whether a storage holds all elements: a refused resize_ leaves torch with a shape that its
/// storage does not hold. `offset` and `reach` count elements.
inline bool fits(int64_t offset, int64_t reach, int64_t itemsize, int64_t storage_bytes) noexcept {
  int64_t end = 0;
  return reach == 0 || (!__builtin_add_overflow(offset, reach, &end) &&
                        !__builtin_mul_overflow(end, itemsize, &end) && end <= storage_bytes);
}

/// A loan over memory that the caller keeps alive while torch reads or writes it. Throws Error
/// (negative_stride), std::bad_alloc.
inline Loan borrow(const TensorView& memory) {
  if (negative_stride_dimension(memory) >= 0) {
    throw Error(ErrorCode::negative_stride, "strides",
                "torch was to write memory with a negative stride");
  }
  Loan loan;
  loan.describe(memory);
  return loan;
}

/// What torch caches of a layout.
struct Layout {
  int64_t bytes;    ///< from the first element to the end of the last
  int64_t numel;    ///< product of the extents
  bool contiguous;  ///< row-major without gaps
  bool dense;       ///< false: it does not fill its bytes without gaps, in any order
};

/// Replaces strides without a meaning that torch cannot hold by canonical ones: those of size 1
/// that are negative or zero, and all of an empty tensor. Requires: no negative strides on extents
/// above 1.
inline Layout normalize_strides(Loan& loan) noexcept {
  const TensorView& view = loan.view();
  assert(negative_stride_dimension(view) < 0);
  int64_t* strides = loan.strides();
  if (view.is_empty()) [[unlikely]] {
    compact_strides(view.extents(), strides);
    return {0, 0, true, true};
  }
  // Unsigned: the strides of NumPy arrays are not validated and may wrap.
  uint64_t end = 1;
  uint64_t numel = 1;
  bool contiguous = true;
  uint64_t next = 1;  // the stride that a row-major neighbour would have
  for (int32_t i = view.ndim - 1; i >= 0; --i) {
    const auto extent = static_cast<uint64_t>(view.shape[i]);
    if (extent == 1) {
      if (strides[i] <= 0) strides[i] = static_cast<int64_t>(next);
    } else {
      end += (extent - 1) * static_cast<uint64_t>(strides[i]);
      contiguous &= static_cast<uint64_t>(strides[i]) == numel;
      numel *= extent;
    }
    next = extent * static_cast<uint64_t>(strides[i]);
  }
  return {static_cast<int64_t>(end * static_cast<uint64_t>(view.itemsize())),
          static_cast<int64_t>(numel), contiguous, end == numel};
}

}  // namespace dlbridge::torch_common
