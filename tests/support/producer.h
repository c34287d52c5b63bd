// SPDX-License-Identifier: Apache-2.0
// Producers of DLPack descriptors whose deleter counts its calls; the descriptor lies on the test's
// stack.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "dlbridge/dlpack.h"

namespace dlbridge::test {

/// A float32 tensor of shape (2, 3), to be spoilt field by field. `Managed` is
/// DLManagedTensorVersioned or DLManagedTensor.
template <typename Managed>
class Producer {
 public:
  Producer() {
    if constexpr (requires(Managed m) { m.version; })
      managed_.version = {kDLPackMajor, kDLPackMinor};
    managed_.manager_ctx = this;
    managed_.deleter = [](Managed* self) {
      ++static_cast<Producer*>(self->manager_ctx)->deletions_;
    };
    managed_.dl_tensor = {values_.data(), {kDLCPU, 0},     2, {kDLFloat, 32, 1},
                          shape_.data(),  strides_.data(), 0};
  }
  Producer(const Producer&) = delete;
  Producer& operator=(const Producer&) = delete;

  Managed* get() { return &managed_; }
  DLTensor& tensor() { return managed_.dl_tensor; }
  float* values() { return values_.data(); }
  int deletions() const { return deletions_; }

  void set_layout(std::vector<int64_t> shape, std::vector<int64_t> strides) {
    shape_ = std::move(shape);
    strides_ = std::move(strides);
    tensor().ndim = static_cast<int32_t>(shape_.size());
    tensor().shape = shape_.data();
    tensor().strides = strides_.data();
  }

 private:
  std::vector<float> values_ = {0, 1, 2, 3, 4, 5};
  std::vector<int64_t> shape_ = {2, 3};
  std::vector<int64_t> strides_ = {3, 1};
  Managed managed_{};
  int deletions_ = 0;
};

using VersionedProducer = Producer<DLManagedTensorVersioned>;
using LegacyProducer = Producer<DLManagedTensor>;

}  // namespace dlbridge::test
