// SPDX-License-Identifier: Apache-2.0
// The dispatch keys that a tensor may have, for both tiers. Needs no torch header: keys are names.
#pragma once

#include <array>
#include <cassert>
#include <cstdint>

#include "dlbridge/error.h"
#include "dlbridge/loan.h"

namespace dlbridge::torch_common {

/// The one allowlist: a dense tensor on the CPU or a CUDA device, with what autograd and autocast
/// add. The Python type proves nothing (a FakeTensor may look like a Parameter); the keys do.
inline constexpr const char* kPlainKeys[] = {
    "CPU", "CUDA", "AutogradCPU", "AutogradCUDA", "AutocastCPU", "AutocastCUDA", "ADInplaceOrView"};

struct KeyReason {
  const char* key;
  ErrorCode code;
};

/// Which refusal a key stands for, by the bits it has beyond the plain ones.
inline constexpr KeyReason kKeyReasons[] = {
    {"Conjugate", ErrorCode::conj_bit},
    {"Negative", ErrorCode::neg_bit},
    {"ZeroTensor", ErrorCode::zero_tensor},
    {"SparseCPU", ErrorCode::sparse_layout},
    {"SparseCsrCPU", ErrorCode::sparse_layout},
    {"QuantizedCPU", ErrorCode::quantized_tensor},
    {"NestedTensorCPU", ErrorCode::nested_tensor},
    {"MkldnnCPU", ErrorCode::mkldnn_layout},
    {"Python", ErrorCode::fake_tensor},
    {"FuncTorchGradWrapper", ErrorCode::functorch_tensor},
    {"FuncTorchBatched", ErrorCode::functorch_tensor},
    {"BatchedNestedTensor", ErrorCode::functorch_tensor},
    {"Functionalize", ErrorCode::functional_tensor},
    {"Meta", ErrorCode::meta_tensor},
};

/// Reasons that a copy remedies: the tensor has memory, which holds other values.
inline constexpr ReasonSet kRemediedByCopy =
    ReasonSet(ErrorCode::conj_bit) | ErrorCode::neg_bit | ErrorCode::zero_tensor;

/// Judges the keys of tensors. Bits, as DispatchKeySet::raw_repr() gives them: its own difference
/// would leave backend bits in.
class KeyJudge {
 public:
  /// `bits_of(name)`: the bits of a key's set; 0 where this torch has no such key.
  template <typename BitsOf>
  explicit KeyJudge(BitsOf&& bits_of) {
    for (const char* key : kPlainKeys) beyond_ &= ~bits_of(key);
    for (size_t i = 0; i < reasons_.size(); ++i)
      reasons_[i] = bits_of(kKeyReasons[i].key) & beyond_;
  }

  /// The bits beyond the plain ones; 0 for a plain tensor.
  uint64_t beyond_plain(uint64_t keys) const noexcept { return keys & beyond_; }

  /// The refusals that bits beyond the plain ones stand for. Requires: not 0.
  ReasonSet reasons(uint64_t beyond) const noexcept {
    assert(beyond != 0);
    ReasonSet found;
    for (size_t i = 0; i < reasons_.size(); ++i) {
      if (reasons_[i] != 0 && (beyond & reasons_[i]) == reasons_[i]) found.add(kKeyReasons[i].code);
    }
    if (found.empty()) found.add(ErrorCode::unsupported_keys);
    return found;
  }

 private:
  uint64_t beyond_ = ~uint64_t{0};  // all bits but the plain ones
  std::array<uint64_t, std::size(kKeyReasons)> reasons_{};
};

/// Describes a tensor whose memory must not be accessed: rank 0 and the reasons.
[[gnu::noinline, gnu::cold]] inline void describe_reason(ReasonSet reasons, Loan& loan) {
  loan.set_rank(0);
  loan.view().reasons = reasons;
}

/// Writes the reasons of the bits beyond the plain keys. Returns false if nothing else of the
/// tensor may be accessed.
inline bool describe_keys(const KeyJudge& judge, uint64_t beyond, Loan& loan) {
  if (beyond == 0) [[likely]]
    return true;
  const ReasonSet reasons = judge.reasons(beyond);
  loan.view().reasons = reasons;
  if (reasons.without(kRemediedByCopy).empty()) return true;
  describe_reason(reasons, loan);
  return false;
}

}  // namespace dlbridge::torch_common
