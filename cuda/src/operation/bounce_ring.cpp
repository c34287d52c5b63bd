// SPDX-License-Identifier: Apache-2.0
#include "operation/bounce_ring.h"

#include <algorithm>

#include "copy/copy_plan.h"
#include "dlbridge/copy.h"
#include "dlbridge/layout.h"
#include "runtime/cuda_error.h"

namespace dlbridge::cuda {
namespace {

// 4 MiB reach the speed of the bus; smaller transfers are cut so that both sides overlap.
constexpr int64_t kLargestSlot = int64_t{4} << 20;
constexpr int64_t kPiecesAimedAt = 8;

int64_t slot_bytes_for(int64_t bytes) {
  const int64_t even = (bytes / kPiecesAimedAt + 4095) / 4096 * 4096;
  return std::clamp(even, BounceRing::kSmallestSlot, kLargestSlot);
}

}  // namespace

BounceRing::BounceRing(Operation& operation, const TensorView& tensor) : operation_(operation) {
  operation.expect_blocks(kSlots);
  slots_.reserve(kSlots);
  for (const int64_t bytes : {slot_bytes_for(tensor.nbytes()), kSmallestSlot}) {
    slot_bytes_ = std::max(bytes, tensor.itemsize());  // an element passes whole
    slots_.clear();
    while (slots_.size() < kSlots) {
      PinnedBlock block = operation.engine().pool().take(static_cast<size_t>(slot_bytes_));
      if (!block) break;
      slots_.push_back({std::move(block), operation.device().sleeping_events().take()});
    }
    if (slots_.size() >= 2) return;
  }
  slots_.clear();
}

// After an exception the slots may be in use.
BounceRing::~BounceRing() {
  for (Slot& slot : slots_) operation_.hold(std::move(slot.block), std::move(slot.copied));
}

// The slot whose turn it is, empty, with a description of what it is to hold.
BounceRing::Slot& BounceRing::next_slot(const TensorView& piece) {
  Slot& slot = slots_[next_];
  next_ = (next_ + 1) % slots_.size();
  wait_for(slot);
  slot.content.describe(piece);
  slot.content.view().data = slot.block.data();
  compact_strides(piece.extents(), slot.content.strides());
  return slot;
}

void BounceRing::wait_for(Slot& slot) {
  if (!std::exchange(slot.pending, false)) return;
  check(wait_for_event(operation_.device().api(), slot.copied.get(), slot_bytes_),
        "waiting for a slot");
  if (slot.target.view().data != nullptr) copy_host(slot.content.view(), slot.target.view());
}

void BounceRing::to_host(const TensorView& source, const TensorView& target) {
  for (Pieces pieces(source, target, slot_bytes_); pieces.next();) {
    Slot& slot = next_slot(pieces.target());
    slot.target.describe(pieces.target());
    operation_.copy(pieces.source(), slot.content.view(), Direction::to_host);
    operation_.record_transfer(slot.copied);
    slot.pending = true;
  }
  for (size_t i = 0; i < slots_.size(); ++i) wait_for(slots_[(next_ + i) % slots_.size()]);
}

void BounceRing::to_device(const TensorView& source, const TensorView& target) {
  for (Pieces pieces(source, target, slot_bytes_); pieces.next();) {
    Slot& slot = next_slot(pieces.source());
    copy_host(pieces.source(), slot.content.view());
    operation_.copy(slot.content.view(), pieces.target(), Direction::to_device);
    operation_.record_transfer(slot.copied);
    slot.pending = true;
  }
}

}  // namespace dlbridge::cuda
