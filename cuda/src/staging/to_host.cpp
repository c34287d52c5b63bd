// SPDX-License-Identifier: Apache-2.0
#include "staging/to_host.h"

#include "copy/copy_plan.h"
#include "dlbridge/copy.h"
#include "operation/bounce_ring.h"
#include "operation/results.h"

namespace dlbridge::cuda {
namespace {

// `once` (as without_broadcast(like) has it) seen with the shape of `like`.
Loan spread_out(const TensorView& once, const TensorView& like) {
  Loan spread;
  spread.describe(like);
  spread.view().data = once.data;
  spread.view().device = once.device;
  int32_t next = 0;
  for (int32_t i = 0; i < like.ndim; ++i) {
    const bool moved = like.strides[i] != 0 && like.shape[i] != 1;
    spread.strides()[i] = moved ? once.strides[next++] : 0;
  }
  return spread;
}

// Pinned where the limit allows it. The operation holds it.
Loan scratch_like(Operation& operation, const TensorView& view, bool& pinned) {
  HostResult scratch(operation.engine().pool(), view, true);
  pinned = scratch.is_pinned();
  Loan description;
  description.describe(scratch.view());
  if (pinned)
    operation.hold(scratch.take_block());
  else
    operation.hold(scratch.finish({}));
  return description;
}

// The pool's limit allows not even a ring: the driver copies through memory of its own, slowly.
void enqueue_unpinned_to_host(Operation& operation, const TensorView& source,
                              const TensorView& target) {
  if (Operation::can_copy(source, target, cudaMemcpyDeviceToHost))
    return operation.copy(source, target, cudaMemcpyDeviceToHost);
  const Loan dense = pageable_scratch(operation, target);
  operation.copy(source, dense.view(), cudaMemcpyDeviceToHost);
  operation.copy_on_host(dense.view(), target);
}

}  // namespace

void enqueue_to_host(Operation& operation, const TensorView& source, const TensorView& target,
                     bool pinned, Waits waits) {
  if (source.is_empty()) return;
  if (broadcast_dimension(source) >= 0) {
    static_cast<void>(plan_copy(source, target));  // refuses elements that have no addresses
    int64_t shape[PackParams::kMaxRank];
    int64_t strides[PackParams::kMaxRank];
    const TensorView once = without_broadcast(source, shape, strides);
    bool scratch_pinned = false;
    const Loan scratch = scratch_like(operation, once, scratch_pinned);
    enqueue_to_host(operation, once, scratch.view(), scratch_pinned, waits);
    return operation.copy_on_host(spread_out(scratch.view(), source).view(), target);
  }
  if (pinned && Operation::can_copy(source, target, cudaMemcpyDeviceToHost) &&
      operation.copy_pinned(source, target, target, cudaMemcpyDeviceToHost))
    return;
  const int64_t bytes = target.nbytes();
  if (bytes <= BounceRing::kOneBlockBytes || waits == Waits::avoided) {
    if (PinnedBlock block = operation.engine().pool().take(static_cast<size_t>(bytes))) {
      Loan content = dense_like(target);
      content.view().data = operation.hold(std::move(block));
      operation.copy(source, content.view(), cudaMemcpyDeviceToHost);
      return operation.copy_on_host(content.view(), target);
    }
  }
  BounceRing ring(operation, target);
  if (ring.is_ready()) return ring.to_host(source, target);
  enqueue_unpinned_to_host(operation, source, target);
}

}  // namespace dlbridge::cuda
