// SPDX-License-Identifier: Apache-2.0
// The sizes of pinned blocks: four steps a doubling up to 8 MiB (256, 320, 384, 448, 512, 640,
// ...), so that at most a quarter is wasted; above, steps of 2 MiB.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace dlbridge::cuda::pinned {

inline constexpr size_t kSmallest = 256;
inline constexpr size_t kHuge = size_t{2} << 20;
inline constexpr size_t kLargestClassed = size_t{8} << 20;

/// The smallest class whose blocks hold `bytes`. Requires: bytes <= kLargestClassed.
constexpr size_t class_of(size_t bytes) noexcept {
  if (bytes <= kSmallest) return 0;
  const auto doubling = static_cast<size_t>(std::bit_width(bytes - 1));  // bytes <= 2^doubling
  const size_t half = size_t{1} << (doubling - 1);
  return 1 + (doubling - 9) * 4 + (bytes - 1 - half) / (half / 4);
}

constexpr size_t class_bytes(size_t size_class) noexcept {
  if (size_class == 0) return kSmallest;
  const size_t half = size_t{1} << (8 + (size_class - 1) / 4);
  return half + ((size_class - 1) % 4 + 1) * (half / 4);
}

inline constexpr size_t kClasses = class_of(kLargestClassed) + 1;

/// Rounds up to whole huge pages; SIZE_MAX where that overflows.
constexpr size_t whole_pages(size_t bytes) noexcept {
  return bytes <= SIZE_MAX - kHuge ? (bytes + kHuge - 1) / kHuge * kHuge : SIZE_MAX;
}

/// The bytes of a block for a request of `bytes`.
constexpr size_t capacity_for(size_t bytes) noexcept {
  return bytes <= kLargestClassed ? class_bytes(class_of(bytes)) : whole_pages(bytes);
}

/// The free list of a block of `bytes`: its blocks hold at least the bytes of the class; list
/// kClasses is for those above kLargestClassed. Requires: bytes >= kSmallest.
constexpr size_t list_of(size_t bytes) noexcept {
  if (bytes > kLargestClassed) return kClasses;
  const size_t size_class = class_of(bytes);
  return class_bytes(size_class) == bytes ? size_class : size_class - 1;
}

}  // namespace dlbridge::cuda::pinned
