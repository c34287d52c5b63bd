// SPDX-License-Identifier: Apache-2.0
#include "staging/enqueue.h"

#include <optional>

#include "copy/copy_plan.h"
#include "dlbridge/copy.h"
#include "operation/bounce_ring.h"

namespace dlbridge::cuda {
namespace {

// Memory that the operation holds, dense in the order of `like`: a description without an owner.
std::optional<Loan> pinned_scratch(Operation& operation, const TensorView& like) {
  PinnedBlock block = operation.engine().pool().take(static_cast<size_t>(like.nbytes()));
  if (!block) return std::nullopt;
  Loan scratch = dense_like(like);
  scratch.view().data = operation.hold(std::move(block));
  return scratch;
}

Loan pageable_scratch(Operation& operation, const TensorView& like) {
  operation.expect_loans(1);
  Loan scratch = allocate_like(like);
  operation.hold(scratch.release_deleter());
  return scratch;
}

bool is_spread(const TensorView& view, int32_t dim) {
  return view.strides[dim] == 0 && view.shape[dim] != 1;
}

// `once` (as without_broadcast(like) has it) seen with the shape of `like`.
Loan spread_out(const TensorView& once, const TensorView& like) {
  Loan spread;
  spread.describe(like);
  spread.view().data = once.data;
  spread.view().device = once.device;
  int32_t next = 0;
  for (int32_t i = 0; i < like.ndim; ++i)
    spread.strides()[i] = is_spread(like, i) || like.shape[i] == 1 ? 0 : once.strides[next++];
  return spread;
}

// Copies each broadcast element once; the host repeats it.
void enqueue_once_to_host(Operation& operation, const TensorView& source, const TensorView& target,
                          Waits waits) {
  static_cast<void>(plan_copy(source, target));  // refuses elements that have no addresses
  int64_t shape[PackParams::kMaxRank];
  int64_t strides[PackParams::kMaxRank];
  const TensorView once = without_broadcast(source, shape, strides);
  std::optional<Loan> scratch = pinned_scratch(operation, once);
  const bool pinned = scratch.has_value();
  if (!pinned) scratch = pageable_scratch(operation, once);
  enqueue_to_host(operation, once, scratch->view(), pinned, waits);
  operation.copy_on_host(spread_out(scratch->view(), source).view(), target);
}

// Copies each broadcast element once, to its first place in the target. The device repeats it from
// there, one dimension after the other, so that no copy reads what it writes.
bool enqueue_once_to_device(Operation& operation, const TensorView& source,
                            const TensorView& target, bool pinned) {
  static_cast<void>(plan_copy(source, target));  // refuses elements that have no addresses
  int64_t shape[PackParams::kMaxRank];
  int64_t strides[PackParams::kMaxRank];
  int64_t slice_strides[PackParams::kMaxRank];
  const TensorView once = without_broadcast(source, shape, strides);
  Loan from;
  from.describe(target);
  int32_t next = 0;
  for (int32_t i = 0; i < source.ndim; ++i) {
    if (is_spread(source, i))
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
    if (!is_spread(source, i)) continue;
    from.shape()[i] = source.shape[i] - 1;  // the first one is there
    Loan to;
    to.describe(from.view());
    to.view().data = static_cast<std::byte*>(target.data) + target.strides[i] * target.itemsize();
    from.strides()[i] = 0;
    operation.copy(from.view(), to.view(), Direction::on_device);
    from.shape()[i] = target.shape[i];
    from.strides()[i] = target.strides[i];
  }
  return read;
}

}  // namespace

// The last resort of both, where the pool's limit allows not even a ring: the driver copies through
// memory of its own, slowly.

void enqueue_to_host(Operation& operation, const TensorView& source, const TensorView& target,
                     bool pinned, Waits waits) {
  if (source.is_empty()) return;
  if (broadcast_dimension(source) >= 0)
    return enqueue_once_to_host(operation, source, target, waits);
  const bool at_once = Operation::can_copy(source, target, Direction::to_host);
  if (pinned && at_once && operation.copy_pinned(source, target, target, Direction::to_host))
    return;
  std::optional<Loan> scratch;
  if (target.nbytes() <= BounceRing::kOneBlockBytes || waits == Waits::avoided)
    scratch = pinned_scratch(operation, target);
  if (!scratch) {
    BounceRing ring(operation, target);
    if (ring.is_ready()) return ring.to_host(source, target);
    if (at_once) return operation.copy(source, target, Direction::to_host);
    scratch = pageable_scratch(operation, target);
  }
  operation.copy(source, scratch->view(), Direction::to_host);
  operation.copy_on_host(scratch->view(), target);
}

bool enqueue_to_device(Operation& operation, const TensorView& source, const TensorView& target,
                       bool pinned) {
  if (source.is_empty()) return true;
  if (broadcast_dimension(source) >= 0)
    return enqueue_once_to_device(operation, source, target, pinned);
  const bool at_once = Operation::can_copy(source, target, Direction::to_device);
  if (pinned && at_once && operation.copy_pinned(source, target, source, Direction::to_device))
    return false;
  std::optional<Loan> scratch;
  if (target.nbytes() <= BounceRing::kOneBlockBytes) scratch = pinned_scratch(operation, target);
  const bool read = scratch.has_value();  // else the driver may still read what it is given
  if (!scratch) {
    BounceRing ring(operation, target);
    if (ring.is_ready()) {
      ring.to_device(source, target);
      return true;
    }
    if (at_once) {
      operation.copy(source, target, Direction::to_device);
      return false;
    }
    scratch = pageable_scratch(operation, target);
  }
  copy_host(source, scratch->view());
  operation.copy(scratch->view(), target, Direction::to_device);
  return read;
}

}  // namespace dlbridge::cuda
