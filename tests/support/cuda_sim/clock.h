// SPDX-License-Identifier: Apache-2.0
// Vector clocks: what an operation, or the host, knows to be over.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dlbridge::cuda_sim {

/// For each actor (a stream) the number of its last operation that is known to be over.
class Clock {
 public:
  uint64_t at(size_t actor) const { return actor < known_.size() ? known_[actor] : 0; }
  bool covers(size_t actor, uint64_t number) const { return at(actor) >= number; }

  void set(size_t actor, uint64_t number) {
    if (actor >= known_.size()) known_.resize(actor + 1);
    known_[actor] = number;
  }

  void join(const Clock& other) {
    if (known_.size() < other.known_.size()) known_.resize(other.known_.size());
    for (size_t i = 0; i < other.known_.size(); ++i) {
      known_[i] = std::max(known_[i], other.known_[i]);
    }
  }

 private:
  std::vector<uint64_t> known_;
};

}  // namespace dlbridge::cuda_sim
