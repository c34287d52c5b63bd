// SPDX-License-Identifier: Apache-2.0
// ByteSet: the bytes that one side of an operation touches: runs of equal length at any strides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace dlbridge::cuda_sim {

class ByteSet {
 public:
  ByteSet() = default;
  ByteSet(const void* first, size_t bytes);

  /// Repeats all there is `count` times, `stride_bytes` apart. Nothing for a count of 0.
  void repeat(int64_t count, int64_t stride_bytes);

  bool empty() const { return run_ == 0; }
  uintptr_t begin() const { return low_; }  ///< the lowest byte
  uintptr_t end() const { return high_; }   ///< one past the highest
  /// Exact: interleaved rows do not overlap.
  bool overlaps(const ByteSet& other) const;

  /// Calls f(first address, bytes) for each run, neighbours joined where the layout shows them.
  template <class F>
  void each_run(F&& f) const {
    if (!empty()) visit(first_, dimensions_.size(), f);
  }

 private:
  struct Dimension {
    int64_t count;
    int64_t stride_bytes;
  };

  template <class F>
  void visit(uintptr_t at, size_t rank, F& f) const {
    if (rank == 0) {
      f(at, run_);
      return;
    }
    const Dimension& dimension = dimensions_[rank - 1];
    for (int64_t i = 0; i < dimension.count; ++i) {
      visit(at + static_cast<uintptr_t>(i * dimension.stride_bytes), rank - 1, f);
    }
  }
  std::vector<std::pair<uintptr_t, uintptr_t>> intervals() const;

  uintptr_t first_ = 0;
  size_t run_ = 0;
  std::vector<Dimension> dimensions_;  // the innermost first
  uintptr_t low_ = 0;
  uintptr_t high_ = 0;
};

}  // namespace dlbridge::cuda_sim
