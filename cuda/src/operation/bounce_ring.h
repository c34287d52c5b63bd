// SPDX-License-Identifier: Apache-2.0
// BounceRing: pinned slots for copies of pageable memory, so that the transfer and the host's copy
// overlap. The calling thread makes the host's copy.
//
// Belongs to one operation, which holds its slots afterwards; not thread-safe. Requires throughout:
// the operation has begun and not ended, the device's context is current.
#pragma once

#include <vector>

#include "operation/operation.h"

namespace dlbridge::cuda {

class BounceRing {
 public:
  /// Up to this size one block and one host copy are faster than a ring.
  static constexpr int64_t kOneBlockBytes = int64_t{256} << 10;
  static constexpr int64_t kSmallestSlot = int64_t{256} << 10;

  /// Takes slots for a tensor like `tensor`, if the pool's limit allows at least two small ones.
  BounceRing(Operation& operation, const TensorView& tensor);
  BounceRing(const BounceRing&) = delete;
  BounceRing& operator=(const BounceRing&) = delete;
  ~BounceRing();

  /// Returns true if there are slots. The functions below require that.
  bool is_ready() const noexcept { return !slots_.empty(); }

  /// Device `source` into `target`, any host memory; returns when all is there.
  void to_host(const TensorView& source, const TensorView& target);

  /// `source`, any host memory, into device `target`; returns when the source has been read.
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

  Slot& next_slot(const TensorView& piece);
  void wait_for(Slot& slot);

  Operation& operation_;
  int64_t slot_bytes_ = 0;
  std::vector<Slot> slots_;
  size_t next_ = 0;
};

}  // namespace dlbridge::cuda
