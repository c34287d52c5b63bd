// SPDX-License-Identifier: Apache-2.0
// BounceRing: pinned slots for copies of pageable memory, so that the transfer and the host's copy
// overlap. The calling thread makes the host's copy.
//
// Owns its slots. Belongs to one operation; not thread-safe. Requires throughout: the operation has
// begun and not ended, the device's context is current.
#pragma once

#include <array>

#include "operation/operation.h"

namespace dlbridge::cuda {

class BounceRing {
 public:
  /// Up to this size one block and one host copy are faster than a ring.
  static constexpr int64_t kOneBlockBytes = int64_t{256} << 10;
  static constexpr int64_t kSmallestSlot = int64_t{256} << 10;

  /// Takes slots for a tensor like `tensor`, if the pool's limit allows at least two small ones.
  BounceRing(Operation& operation, const TensorView& tensor);

  /// Returns true if there are slots. The functions below require that.
  bool is_ready() const noexcept { return count_ > 0; }

  BounceRing(const BounceRing&) = delete;
  BounceRing& operator=(const BounceRing&) = delete;
  /// After an exception the operation holds the slots, which may be in use.
  ~BounceRing();

  /// Device `source` into `target`, any host memory; returns when all is there.
  void to_host(const TensorView& source, const TensorView& target);

  /// `source`, any host memory, into device `target`; returns when the source has been read. The
  /// slots go back to the pool when their copies have ended.
  void to_device(const TensorView& source, const TensorView& target);

 private:
  static constexpr size_t kSlots = 4;

  struct Slot {
    PinnedBlock block;
    PooledEvent copied;
    bool pending = false;
    Loan target;  // where the host is to copy the slot's content
    Loan content;
  };

  void wait_for(Slot& slot);
  void drain(Slot& slot);

  Operation& operation_;
  int64_t slot_bytes_ = 0;
  std::array<Slot, kSlots> slots_;
  size_t count_ = 0;
  bool finished_ = false;
};

}  // namespace dlbridge::cuda
