// SPDX-License-Identifier: Apache-2.0
// To device: copies host memory of any kind and layout into a device tensor.
#pragma once

#include "operation/operation.h"

namespace dlbridge::cuda {

/// Enqueues the copy of `source` to `target`. Returns true if the source may be reused on return,
/// false if it is in use until the operation has ended. Requires:
/// the operation has begun; same shape and dtype; `pinned` says what is_pinned() does of the
/// source.
bool enqueue_to_device(Operation& operation, const TensorView& source, const TensorView& target,
                       bool pinned);

/// A copy to a device whose host part runs on the waiter's thread: for a borrowed pageable source.
class DeferredCopy final : public Completion {
 public:
  /// `target` is held by the operation.
  DeferredCopy(std::unique_ptr<Operation> operation, const TensorView& target) noexcept
      : operation_(std::move(operation)), target_(target) {}

  /// Makes it wait for the work that the consumer's stream has enqueued. Called by the caller's
  /// thread.
  void begin() { operation_->begin(); }
  void complete() noexcept override;

  static void post(std::unique_ptr<DeferredCopy> copy, Loan&& source) noexcept;

 private:
  std::unique_ptr<Operation> operation_;
  TensorView target_;
  Loan source_;
};

}  // namespace dlbridge::cuda
