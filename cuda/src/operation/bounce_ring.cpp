// SPDX-License-Identifier: Apache-2.0
#include "operation/bounce_ring.h"

#include <algorithm>
#include <cassert>
#include <string>

#include "copy/copy_plan.h"
#include "dlbridge/copy.h"
#include "dlbridge/layout.h"
#include "runtime/cuda_error.h"

namespace dlbridge::cuda {
namespace {

// 4 MiB reach the speed of the bus; smaller transfers are cut so that both sides overlap.
constexpr int64_t kLargestSlot = int64_t{4} << 20;
constexpr int64_t kPiecesAimedAt = 8;

// An element passes whole.
int64_t smallest_slot_for(const TensorView& view) {
  return std::max(BounceRing::kSmallestSlot, view.itemsize());
}

int64_t slot_bytes_for(int64_t bytes) {
  const int64_t even = (bytes / kPiecesAimedAt + 4095) / 4096 * 4096;
  return std::clamp(even, BounceRing::kSmallestSlot, kLargestSlot);
}

}  // namespace

BounceRing::BounceRing(Operation& operation, const TensorView& tensor)
    : operation_(operation), slot_bytes_(slot_bytes_for(tensor.nbytes())) {
  const int64_t smallest = smallest_slot_for(tensor);
  slot_bytes_ = std::max(slot_bytes_, smallest);
  PinnedPool& pool = operation.engine().pool();
  operation.expect_blocks(kSlots);
  while (true) {
    while (count_ < kSlots) {
      PinnedBlock block = pool.take(static_cast<size_t>(slot_bytes_));
      if (!block) break;
      slots_[count_].block = std::move(block);
      slots_[count_++].copied = operation.device().sleeping_events().take();
    }
    if (count_ >= 2) return;
    if (slot_bytes_ == smallest) break;
    slot_bytes_ = smallest;
    slots_[0].block = {};
    count_ = 0;
  }
  slots_[0].block = {};
  count_ = 0;
}

BounceRing::~BounceRing() {
  if (finished_) return;
  for (Slot& slot : slots_) {
    if (slot.block) operation_.hold(std::move(slot.block));
  }
}

void BounceRing::wait_for(Slot& slot) {
  if (!slot.pending) return;
  slot.pending = false;
  check(wait_for_event(operation_.device().api(), slot.copied.get(), slot_bytes_),
        "waiting for a slot");
}

void BounceRing::drain(Slot& slot) {
  if (!slot.pending) return;
  wait_for(slot);
  copy_host(slot.content.view(), slot.target.view());
}

void BounceRing::to_host(const TensorView& source, const TensorView& target) {
  assert(is_ready());
  Pieces pieces(source, target, slot_bytes_);
  size_t next = 0;
  for (; pieces.next(); next = (next + 1) % count_) {
    Slot& slot = slots_[next];
    drain(slot);
    const TensorView& piece = pieces.target();
    slot.target.describe(piece);
    slot.content.describe(piece);
    slot.content.view().data = slot.block.data();
    compact_strides(piece.extents(), slot.content.strides());
    operation_.copy(pieces.source(), slot.content.view(), cudaMemcpyDeviceToHost);
    operation_.record_transfer(slot.copied);
    slot.pending = true;
  }
  for (size_t i = 0; i < count_; ++i) drain(slots_[(next + i) % count_]);
  finished_ = true;
}

void BounceRing::to_device(const TensorView& source, const TensorView& target) {
  assert(is_ready());
  Pieces pieces(source, target, slot_bytes_);
  for (size_t next = 0; pieces.next(); next = (next + 1) % count_) {
    Slot& slot = slots_[next];
    wait_for(slot);
    slot.content.describe(pieces.source());
    slot.content.view().data = slot.block.data();
    compact_strides(pieces.source().extents(), slot.content.strides());
    copy_host(pieces.source(), slot.content.view());
    operation_.copy(slot.content.view(), pieces.target(), cudaMemcpyHostToDevice);
    operation_.record_transfer(slot.copied);
    slot.pending = true;
  }
  for (size_t i = 0; i < count_; ++i) {
    if (slots_[i].pending) std::move(slots_[i].block).retire(std::move(slots_[i].copied));
  }
  finished_ = true;
}

}  // namespace dlbridge::cuda
