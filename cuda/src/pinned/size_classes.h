// SPDX-License-Identifier: Apache-2.0
// The sizes of pinned blocks.
//
// Up to 8 MiB there are four classes a doubling (64, 128, 192, 256, 320, 384, 448, 512, 640, ...),
// so at most a quarter is wasted; blocks of a class are carved from spans, each a whole number of
// blocks and of pages. Above, a block is a segment of its own, in steps of 2 MiB.
#pragma once

#include <bit>
#include <cstddef>

namespace dlbridge::cuda::pinned {

inline constexpr size_t kSmallest = 64;
inline constexpr size_t kPage = size_t{8} << 10;
inline constexpr size_t kHuge = size_t{2} << 20;
inline constexpr size_t kLargestClassed = size_t{8} << 20;
/// The largest block that a thread keeps for itself.
inline constexpr size_t kLargestCached = size_t{64} << 10;

/// The class of a block of `bytes`. Requires: bytes <= kLargestClassed.
constexpr int class_of(size_t bytes) noexcept {
  if (bytes <= 256) return bytes == 0 ? 0 : static_cast<int>((bytes - 1) / kSmallest);
  const int doubling = std::bit_width(bytes - 1);  // 2^(doubling - 1) < bytes <= 2^doubling
  const size_t quarter = size_t{1} << (doubling - 3);
  const size_t quarters = (bytes - 1 - (size_t{1} << (doubling - 1))) / quarter;  // 0 to 3
  return 4 + (doubling - 9) * 4 + static_cast<int>(quarters);
}

constexpr size_t class_bytes(int size_class) noexcept {
  if (size_class < 4) return kSmallest * static_cast<size_t>(size_class + 1);
  const int doubling = 9 + (size_class - 4) / 4;
  const auto quarters = static_cast<size_t>((size_class - 4) % 4 + 1);
  return (size_t{1} << (doubling - 1)) + (quarters << (doubling - 3));
}

inline constexpr int kClasses = class_of(kLargestClassed) + 1;
inline constexpr int kCachedClasses = class_of(kLargestCached) + 1;

/// The bytes carved at a time.
constexpr size_t span_bytes(int size_class) noexcept {
  size_t bytes = class_bytes(size_class);
  while (bytes < 4 * kPage) bytes *= 2;
  return bytes;
}

/// What a block above kLargestClassed occupies. Requires: bytes <= SIZE_MAX - kHuge.
constexpr size_t large_bytes(size_t bytes) noexcept { return (bytes + kHuge - 1) / kHuge * kHuge; }

/// Whether a free block of `capacity` serves a request of `wanted` (both in steps of 2 MiB).
constexpr bool serves(size_t capacity, size_t wanted) noexcept {
  return capacity >= wanted && capacity - wanted <= wanted / 4;
}

}  // namespace dlbridge::cuda::pinned
