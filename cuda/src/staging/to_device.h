// To device: how host memory of any kind and layout comes into a device tensor.
#pragma once

#include "operation/operation.h"

namespace dlbridge::cuda {

/// Enqueues what brings `source` into `target`. Whether the source has been read: false where the
/// device reads it, or something that the operation holds, until the operation has ended. Requires:
/// the operation has begun; same shape and dtype; `pinned` says what is_pinned() does of the
/// source.
bool enqueue_to_device(Operation& operation, const TensorView& source, const TensorView& target,
                       bool pinned);

/// A send whose host part another thread does: for a pageable source that is only borrowed.
class DeferredCopy final : public Completion {
 public:
  /// `target` is held by the operation.
  DeferredCopy(std::unique_ptr<Operation> operation, const TensorView& target) noexcept
      : operation_(std::move(operation)), target_(target) {}

  /// Orders it behind what the consumer's stream does now, on the calling thread.
  void begin() { operation_->begin(); }
  void complete() noexcept override;

  static void post(std::unique_ptr<DeferredCopy> copy, Loan&& source) noexcept;

 private:
  std::unique_ptr<Operation> operation_;
  TensorView target_;
  Loan source_;
};

}  // namespace dlbridge::cuda
