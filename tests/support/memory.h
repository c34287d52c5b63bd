// SPDX-License-Identifier: Apache-2.0
// Memory for tests: buffers between guard bytes, and an owner that counts how often it was given
// back.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "dlbridge/loan.h"
#include "shaped.h"

namespace dlbridge::test {

/// Bytes between two guards. The payload starts out poisoned, 64-byte aligned plus `misalignment`.
class GuardedBuffer {
 public:
  static constexpr uint8_t kGuard = 0xA5;
  static constexpr uint8_t kPoison = 0xCD;
  static constexpr size_t kGuardBytes = 64;

  explicit GuardedBuffer(size_t bytes, size_t misalignment = 0)
      : bytes_(bytes), memory_(bytes + misalignment + 3 * kGuardBytes, kGuard) {
    const auto begin = reinterpret_cast<uintptr_t>(memory_.data()) + kGuardBytes;
    first_ = (begin + 63) / 64 * 64 - begin + kGuardBytes + misalignment;
    std::fill_n(data(), bytes_, kPoison);
  }

  uint8_t* data() { return memory_.data() + first_; }
  size_t size() const { return bytes_; }

  bool guards_intact() const {
    const auto is_guard = [](uint8_t byte) { return byte == kGuard; };
    const auto first = memory_.begin() + static_cast<std::ptrdiff_t>(first_);
    return std::all_of(memory_.begin(), first, is_guard) &&
           std::all_of(first + static_cast<std::ptrdiff_t>(bytes_), memory_.end(), is_guard);
  }

  /// Distinct-looking bytes: no two neighbouring elements of up to 16 bytes are equal.
  void fill_with_pattern(uint32_t seed) {
    uint32_t state = seed * 2654435761u + 1;
    for (size_t i = 0; i < bytes_; ++i) {
      state = state * 1664525u + 1013904223u;
      data()[i] = static_cast<uint8_t>(state >> 24);
    }
  }

 private:
  size_t bytes_;
  size_t first_ = 0;
  std::vector<uint8_t> memory_;
};

/// Counts releases. Outlives every deleter that it gave out.
class ReleaseCounter {
 public:
  Deleter deleter() {
    return {this, [](void* context) noexcept { ++static_cast<ReleaseCounter*>(context)->count_; }};
  }
  int count() const { return count_; }

 private:
  std::atomic<int> count_{0};
};

/// A loan of `view` without a deleter, or with one whose calls `counter` counts.
inline Loan loan_of(const TensorView& view, Deleter deleter = {}) {
  Loan loan;
  loan.describe(view);
  if (deleter.release != nullptr) loan.attach(deleter);
  return loan;
}
inline Loan make_loan(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                      DType dtype, void* data, Deleter deleter) {
  return loan_of(Shaped(shape, strides, dtype, data).view(), deleter);
}
inline Loan loan_of(const TensorView& view, ReleaseCounter& counter) {
  return loan_of(view, counter.deleter());
}

}  // namespace dlbridge::test
