// SPDX-License-Identifier: Apache-2.0
#include "staging/enqueue.h"

#include <algorithm>
#include <optional>
#include <string>

#include "copy/copy_plan.h"
#include "dlbridge/copy.h"
#include "dlbridge/layout.h"
#include "runtime/cuda_error.h"

namespace dlbridge::cuda {
namespace {

constexpr size_t kSlots = 4;
// 4 MiB reach the speed of the bus; smaller transfers are cut so that both sides overlap.
constexpr int64_t kLargestSlot = int64_t{4} << 20;
constexpr int64_t kPiecesAimedAt = 8;

int64_t slot_bytes_for(int64_t bytes) {
  const int64_t even = (bytes / kPiecesAimedAt + 4095) / 4096 * 4096;
  return std::clamp(even, kSmallestSlot, kLargestSlot);
}

// Copies between a device and pageable memory through a ring of pinned slots, so that the transfer
// and the host's copy, which this thread makes, overlap. Returns when all has arrived on the host,
// or the source there has been read; false, with nothing done, if the pool's limit does not allow
// at least two small slots.
bool copy_through_ring(Operation& operation, const TensorView& source, const TensorView& target,
                       Direction kind) {
  struct Slot {
    std::byte* memory;
    PooledEvent copied;
    Loan content;
    Loan target;  // where the host is to copy the content, if anywhere
    bool pending = false;
  };
  const bool to_host = kind == Direction::to_host;
  std::vector<PinnedBlock> blocks;
  int64_t slot_bytes = 0;
  for (const int64_t bytes : {slot_bytes_for(target.nbytes()), kSmallestSlot}) {
    if (blocks.size() >= 2) break;
    blocks.clear();
    slot_bytes = std::max(bytes, target.itemsize());  // an element passes whole
    while (blocks.size() < kSlots) {
      PinnedBlock block = operation.engine().pool().take(static_cast<size_t>(slot_bytes));
      if (!block) break;
      blocks.push_back(std::move(block));
    }
  }
  if (blocks.size() < 2) return false;
  std::vector<Slot> slots;
  for (PinnedBlock& block : blocks)
    slots.push_back({operation.hold(std::move(block)), operation.device().events().take()});

  const auto wait_for = [&](Slot& slot) {
    if (!std::exchange(slot.pending, false)) return;
    check(wait_for_event(operation.device().api(), slot.copied.get(), slot_bytes),
          "waiting for a slot");
    if (to_host) copy_host(slot.content.view(), slot.target.view());
  };
  size_t next = 0;
  for (Pieces pieces(source, target, slot_bytes); pieces.next(); next = (next + 1) % slots.size()) {
    Slot& slot = slots[next];
    wait_for(slot);
    const TensorView& host = to_host ? pieces.target() : pieces.source();
    slot.content.describe(host);
    slot.content.view().data = slot.memory;
    compact_strides(host.extents(), slot.content.strides());
    if (to_host)
      slot.target.describe(host);
    else
      copy_host(host, slot.content.view());
    operation.copy(to_host ? pieces.source() : slot.content.view(),
                   to_host ? slot.content.view() : pieces.target(), kind);
    operation.record_transfer(slot.copied);
    slot.pending = true;
  }
  for (size_t i = 0; to_host && i < slots.size(); ++i) wait_for(slots[(next + i) % slots.size()]);
  return true;
}

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

// `once` (as each_once(like) has it) seen with the shape of `like`.
Loan spread_out(const TensorView& once, const TensorView& like) {
  Loan spread;
  spread.describe(once);
  for (int32_t i = 0; i < like.ndim; ++i) {
    if (once.shape[i] == like.shape[i]) continue;
    spread.shape()[i] = like.shape[i];
    spread.strides()[i] = 0;
  }
  return spread;
}

// Copies each broadcast element once; the host repeats it.
bool enqueue_once_to_host(Operation& operation, const TensorView& source, const TensorView& target,
                          Waits waits) {
  static_cast<void>(plan_copy(source, target));  // refuses elements that have no addresses
  const Loan once = each_once(source);
  std::optional<Loan> scratch = pinned_scratch(operation, once.view());
  const bool pinned = scratch.has_value();
  if (!pinned) scratch = pageable_scratch(operation, once.view());
  enqueue(operation, once.view(), scratch->view(), Direction::to_host, pinned, waits);
  operation.copy_on_host(spread_out(scratch->view(), source).view(), target);
  return false;
}

// Copies each broadcast element once, to its first place in the target. The device repeats it from
// there, one dimension after the other, so that no copy reads what it writes.
bool enqueue_once_to_device(Operation& operation, const TensorView& source,
                            const TensorView& target, bool pinned) {
  const Loan once = each_once(source);
  Loan from;
  from.describe(target);
  std::copy_n(once.view().shape, target.ndim, from.shape());
  const bool read =
      enqueue(operation, once.view(), from.view(), Direction::to_device, pinned, Waits::allowed);
  for (int32_t i = 0; i < target.ndim; ++i) {
    if (from.shape()[i] == target.shape[i]) continue;
    from.shape()[i] = target.shape[i] - 1;  // the first one is there
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

bool is_pinned(Engine& engine, const TensorView& view) {
  const auto range = byte_range(view.extents(), view.stride_elements(), view.itemsize());
  if (!range || range->after == 0) return false;
  const auto* address = static_cast<const std::byte*>(view.data);
  const auto* first = address - range->before;
  if (engine.pool().holds(first)) return true;
  const PointerAttributes found = attributes_of(engine.api(), first);
  if (found.kind == MemoryKind::device) {
    throw Error(ErrorCode::invalid_device, "data",
                "data is memory of cuda:" + std::to_string(found.device) +
                    "; the tensor says that it is on " + Device(view.device).name() +
                    ": fix the producer");
  }
  return found.kind == MemoryKind::pinned &&
         attributes_of(engine.api(), address + range->after - 1).kind == MemoryKind::pinned;
}

Loan each_once(const TensorView& view) {
  Loan once;
  once.describe(view);
  for (int32_t i = 0; i < view.ndim; ++i) {
    if (view.strides[i] == 0) once.shape()[i] = 1;
  }
  return once;
}

bool enqueue(Operation& operation, const TensorView& source, const TensorView& target,
             Direction direction, bool pinned, Waits waits) {
  if (source.is_empty()) return true;
  if (direction == Direction::on_device) {
    operation.copy(source, target, direction);
    return true;
  }
  const bool to_host = direction == Direction::to_host;
  if (broadcast_dimension(source) >= 0) {
    return to_host ? enqueue_once_to_host(operation, source, target, waits)
                   : enqueue_once_to_device(operation, source, target, pinned);
  }
  const bool at_once = Operation::can_copy(source, target, direction);
  if (pinned && at_once && operation.copy_pinned(source, target, direction)) return false;
  std::optional<Loan> scratch;
  if (target.nbytes() <= kOneBlockBytes || waits == Waits::avoided)
    scratch = pinned_scratch(operation, target);
  const bool read = scratch.has_value();
  if (!scratch) {
    if (copy_through_ring(operation, source, target, direction)) return true;
    // The pool's limit allows not even a ring: the driver copies through memory of its own, slowly,
    // and may still read what it is given.
    if (at_once) {
      operation.copy(source, target, direction);
      return false;
    }
    scratch = pageable_scratch(operation, target);
  }
  if (to_host) {
    operation.copy(source, scratch->view(), direction);
    operation.copy_on_host(scratch->view(), target);
  } else {
    copy_host(source, scratch->view());
    operation.copy(scratch->view(), target, direction);
  }
  return read;
}

}  // namespace dlbridge::cuda
