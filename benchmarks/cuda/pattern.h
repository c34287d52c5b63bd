// SPDX-License-Identifier: Apache-2.0
// Pattern: content by which a copy is known to be complete and in the right places. Device memory
// is filled with words that depend on their place; what arrives is compared with them, and spoilt
// afterwards, so that memory used again does not show the content of the round before.
//
// Thread: one.
#pragma once

#include <cstdint>

#include "dlbridge/tensor_view.h"

namespace dlbridge::bars {

/// Fills device memory with the words of `seed`. `bytes` is a multiple of 4.
void fill_device(void* device_memory, int64_t bytes, uint32_t seed);
void fill_host(void* memory, int64_t bytes, uint32_t seed);

/// What of an array is looked at.
enum class Look {
  pages,     ///< one element in every 4 KiB
  thorough,  ///< all of them; every n-th of very many
};

/// Whether host memory `got` holds the elements of `source`, which was filled from its data pointer
/// on with the words of `seed`. Elements have 2 or 4 bytes and strides that are not negative.
/// Throws std::runtime_error naming the first wrong element.
void expect_content(const TensorView& got, const TensorView& source, uint32_t seed, Look look);

/// Writes something else to the elements that Look::pages sees.
void spoil(const TensorView& host);

/// The same where what arrived is in device memory, dense in any order, and the source is a host's.
void expect_device_content(const TensorView& target, const TensorView& source, uint32_t seed,
                           Look look);

/// Thorough the first time, pages from then on.
class FirstThorough {
 public:
  Look next() noexcept { return first_ ? (first_ = false, Look::thorough) : Look::pages; }

 private:
  bool first_ = true;
};

}  // namespace dlbridge::bars
