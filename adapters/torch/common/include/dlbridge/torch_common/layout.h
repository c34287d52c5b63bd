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
  int64_t* shape = loan.shape();
  int64_t* steps = loan.strides();
  int64_t end = 1;
  bool empty = false;
  bool overflow = false;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const int64_t extent = sizes[i];
    const int64_t step = strides[i];
    shape[i] = extent;
    steps[i] = step;
    int64_t reach = 0;
    if (extent <= 1) {
      empty |= extent == 0;
    } else if (__builtin_mul_overflow(extent - 1, step, &reach) ||
               __builtin_add_overflow(end, reach, &end)) [[unlikely]] {
      overflow = true;
    }
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
[[gnu::always_inline]] inline Layout normalize_strides(Loan& loan) noexcept {
  const TensorView& view = loan.view();
  assert(negative_stride_dimension(view) < 0);
  int64_t* strides = loan.strides();
  // Unsigned: the strides of NumPy arrays are not validated and may wrap.
  uint64_t end = 1;
  uint64_t numel = 1;
  bool contiguous = true;
  uint64_t next = 1;  // the stride that a row-major neighbour would have
  for (int32_t i = view.ndim - 1; i >= 0; --i) {
    const auto extent = static_cast<uint64_t>(view.shape[i]);
    auto stride = static_cast<uint64_t>(strides[i]);
    if (extent != 1) {
      end += (extent - 1) * stride;
      contiguous &= stride == numel;
      numel *= extent;
    } else if (strides[i] <= 0) {
      stride = next;
      strides[i] = static_cast<int64_t>(next);
    }
    next = extent * stride;
  }
  if (numel == 0 && view.is_empty()) [[unlikely]] {
    compact_strides(view.extents(), strides);
    return {0, 0, true, true};
  }
  return {static_cast<int64_t>(end * static_cast<uint64_t>(view.itemsize())),
          static_cast<int64_t>(numel), contiguous, end == numel};
}

}  // namespace dlbridge::torch_common
