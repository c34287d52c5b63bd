// SPDX-License-Identifier: Apache-2.0
#include "staging/to_device.h"

#include "copy/copy_plan.h"
#include "dlbridge/copy.h"
#include "operation/bounce_ring.h"
#include "operation/results.h"
#include "runtime/guards.h"

namespace dlbridge::cuda {
namespace {

// Copies each broadcast element once, to its first place in the target. The device repeats it from
// there, one dimension after the other, so that no copy reads what it writes.
bool enqueue_once_to_device(Operation& operation, const TensorView& source,
                            const TensorView& target, bool pinned) {
  static_cast<void>(plan_copy(source, target));  // refuses elements that have no addresses
  int64_t shape[PackParams::kMaxRank];
  int64_t strides[PackParams::kMaxRank];
  int64_t slice_strides[PackParams::kMaxRank];
  const TensorView once = without_broadcast(source, shape, strides);
  const auto is_spread = [&](int32_t i) { return source.strides[i] == 0 && source.shape[i] != 1; };
  Loan from;
  from.describe(target);
  int32_t next = 0;
  for (int32_t i = 0; i < source.ndim; ++i) {
    if (is_spread(i))
      from.shape()[i] = 1;
    else if (source.shape[i] != 1)
      slice_strides[next++] = target.strides[i];
  }
  TensorView slice = target;
  slice.ndim = once.ndim;
  slice.shape = once.shape;
  slice.strides = slice_strides;
  const bool read = enqueue_to_device(operation, once, slice, pinned);
  for (int32_t i = 0; i < source.ndim; ++i) {
    if (!is_spread(i)) continue;
    from.shape()[i] = source.shape[i] - 1;  // the first one is there
    Loan to;
    to.describe(from.view());
    to.view().data = static_cast<std::byte*>(target.data) + target.strides[i] * target.itemsize();
    from.strides()[i] = 0;
    operation.copy(from.view(), to.view(), cudaMemcpyDeviceToDevice);
    from.shape()[i] = target.shape[i];
    from.strides()[i] = target.strides[i];
  }
  return read;
}

// The pool's limit allows not even a ring: the driver copies through memory of its own, slowly.
bool enqueue_unpinned_to_device(Operation& operation, const TensorView& source,
                                const TensorView& target) {
  if (Operation::can_copy(source, target, cudaMemcpyHostToDevice)) {
    operation.copy(source, target, cudaMemcpyHostToDevice);
    return false;
  }
  const Loan dense = pageable_scratch(operation, target);
  copy_host(source, dense.view());
  operation.copy(dense.view(), target, cudaMemcpyHostToDevice);
  return false;  // the driver may still read it
}

}  // namespace

bool enqueue_to_device(Operation& operation, const TensorView& source, const TensorView& target,
                       bool pinned) {
  if (source.is_empty()) return true;
  if (broadcast_dimension(source) >= 0)
    return enqueue_once_to_device(operation, source, target, pinned);
  if (pinned && Operation::can_copy(source, target, cudaMemcpyHostToDevice) &&
      operation.copy_pinned(source, target, source, cudaMemcpyHostToDevice))
    return false;
  const int64_t bytes = target.nbytes();
  if (bytes <= BounceRing::kOneBlockBytes) {
    if (PinnedBlock block = operation.engine().pool().take(static_cast<size_t>(bytes))) {
      Loan content = dense_like(target);
      content.view().data = operation.hold(std::move(block));
      copy_host(source, content.view());
      operation.copy(content.view(), target, cudaMemcpyHostToDevice);
      return true;
    }
  }
  BounceRing ring(operation, target);
  if (!ring.is_ready()) return enqueue_unpinned_to_device(operation, source, target);
  ring.to_device(source, target);
  return true;
}

void DeferredCopy::complete() noexcept {
  try {
    const CallGuard guard(operation_->device().api(), operation_->device().context());
    const bool read = enqueue_to_device(*operation_, source_.view(), target_, false);
    operation_->expect_loans(1);
    operation_->end(false);
    if (!read) operation_->hold(std::move(source_));
  } catch (const Error& error) {
    source_.reset();  // released before the failure becomes visible
    return operation_->abandon(error);
  } catch (const std::exception&) {
    source_.reset();
    return operation_->abandon(
        Error(ErrorCode::out_of_memory, "memory", "no memory left for a copy"));
  }
  source_.reset();
  operation_->complete();
}

void DeferredCopy::post(std::unique_ptr<DeferredCopy> copy, Loan&& source) noexcept {
  copy->source_ = std::move(source);
  Waiter& waiter = copy->operation_->waiter();
  waiter.post(std::move(copy));
}

}  // namespace dlbridge::cuda
