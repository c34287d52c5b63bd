// SPDX-License-Identifier: Apache-2.0
// Memory between guards for the tests of the Torch adapter, and loans over it that count their
// releases.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <vector>

#include "dlbridge/torch.h"
#include "memory.h"
#include "shaped.h"

namespace dlbridge::test {

using Dims = std::vector<int64_t>;

inline c10::StorageImpl& storage_of(const at::Tensor& tensor) {
  return *tensor.storage().unsafeGetStorageImpl();
}

// A float32 row of 16 elements between guards, and a counter of releases.
class CountedMemory {
 public:
  CountedMemory() : buffer_(64) {}
  Loan loan(const Dims& shape = {16}, DType dtype = kFloat32) {
    return make_loan(shape, row_major(shape), dtype, buffer_.data(), counter_.deleter());
  }
  uint8_t* data() { return buffer_.data(); }
  int releases() const { return counter_.count(); }
  bool guards_intact() const { return buffer_.guards_intact(); }

 private:
  GuardedBuffer buffer_;
  ReleaseCounter counter_;
};

}  // namespace dlbridge::test
