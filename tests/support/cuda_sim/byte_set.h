// SPDX-License-Identifier: Apache-2.0
// ByteSet: the bytes that one side of an operation touches.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dlbridge::cuda_sim {

class ByteSet {
 public:
  struct Run {
    uintptr_t begin;
    uintptr_t end;
    size_t bytes() const { return end - begin; }
  };

  ByteSet(const void* first, size_t bytes) {
    const auto at = reinterpret_cast<uintptr_t>(first);
    if (bytes > 0) runs_.push_back({at, at + bytes});
  }

  /// Repeats all there is `count` times, `stride_bytes` apart. Nothing for a count of 0.
  void repeat(int64_t count, int64_t stride_bytes) {
    const std::vector<Run> one = std::move(runs_);
    runs_.clear();
    if (count <= 0 || one.empty()) return;
    const auto shift = [&](int64_t times) { return static_cast<uintptr_t>(times * stride_bytes); };
    if (one.size() == 1 && std::abs(stride_bytes) <= static_cast<int64_t>(one[0].bytes())) {
      const int64_t last = count - 1;  // without gaps
      runs_.push_back({one[0].begin + shift(stride_bytes < 0 ? last : 0),
                       one[0].end + shift(stride_bytes < 0 ? 0 : last)});
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      const uintptr_t by = shift(stride_bytes < 0 ? count - 1 - i : i);
      for (const Run& run : one) runs_.push_back({run.begin + by, run.end + by});
    }
    join_neighbours();
  }

  bool empty() const { return runs_.empty(); }
  uintptr_t begin() const { return empty() ? 0 : runs_.front().begin; }  ///< the lowest byte
  uintptr_t end() const { return empty() ? 0 : runs_.back().end; }       ///< one past the highest
  /// In order, with gaps between them.
  const std::vector<Run>& runs() const { return runs_; }

  /// Exact: interleaved rows do not overlap.
  bool overlaps(const ByteSet& other) const {
    if (end() <= other.begin() || other.end() <= begin()) return false;
    auto mine = runs_.begin();
    auto theirs = other.runs_.begin();
    while (mine != runs_.end() && theirs != other.runs_.end()) {
      if (mine->end <= theirs->begin)
        ++mine;
      else if (theirs->end <= mine->begin)
        ++theirs;
      else
        return true;
    }
    return false;
  }

 private:
  void join_neighbours() {
    const auto earlier = [](const Run& a, const Run& b) { return a.begin < b.begin; };
    if (!std::is_sorted(runs_.begin(), runs_.end(), earlier))
      std::sort(runs_.begin(), runs_.end(), earlier);
    size_t last = 0;
    for (const Run& run : runs_) {
      if (run.begin <= runs_[last].end)
        runs_[last].end = std::max(runs_[last].end, run.end);
      else
        runs_[++last] = run;
    }
    runs_.resize(last + 1);
  }

  std::vector<Run> runs_;
};

}  // namespace dlbridge::cuda_sim
