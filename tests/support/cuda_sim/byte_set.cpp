// SPDX-License-Identifier: Apache-2.0
#include "byte_set.h"

#include <algorithm>

namespace dlbridge::cuda_sim {

ByteSet::ByteSet(const void* first, size_t bytes)
    : first_(reinterpret_cast<uintptr_t>(first)),
      run_(bytes),
      low_(first_),
      high_(first_ + bytes) {}

void ByteSet::repeat(int64_t count, int64_t stride_bytes) {
  if (count <= 0) {
    *this = ByteSet();
    return;
  }
  if (empty() || count == 1 || stride_bytes == 0) return;
  const auto reach = static_cast<uintptr_t>((count - 1) * stride_bytes);
  if (stride_bytes > 0) {
    high_ += reach;
  } else {  // the same set from its other end
    low_ += reach;
    first_ += reach;
    stride_bytes = -stride_bytes;
  }
  if (dimensions_.empty() && stride_bytes == static_cast<int64_t>(run_)) {
    run_ *= static_cast<size_t>(count);
  } else {
    dimensions_.push_back({count, stride_bytes});
  }
}

std::vector<std::pair<uintptr_t, uintptr_t>> ByteSet::intervals() const {
  std::vector<std::pair<uintptr_t, uintptr_t>> all;
  each_run([&](uintptr_t at, size_t bytes) { all.emplace_back(at, at + bytes); });
  std::sort(all.begin(), all.end());
  return all;
}

bool ByteSet::overlaps(const ByteSet& other) const {
  if (empty() || other.empty() || low_ >= other.high_ || other.low_ >= high_) return false;
  if (dimensions_.empty() && other.dimensions_.empty()) return true;
  const auto mine = intervals();
  const auto others = other.intervals();
  // Runs of one set may overlap each other, so a run that ends early does not end the search.
  size_t from = 0;
  for (const auto& [begin, end] : mine) {
    while (from < others.size() && others[from].second <= begin) ++from;
    for (size_t i = from; i < others.size() && others[i].first < end; ++i) {
      if (others[i].second > begin) return true;
    }
  }
  return false;
}

}  // namespace dlbridge::cuda_sim
