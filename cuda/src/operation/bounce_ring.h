// BounceRing: pinned slots through which pageable memory passes, so that the bus and the host's own
// copy work at the same time. The calling thread does the host's part.
//
// Owns its slots. Belongs to one operation; not thread-safe. Requires throughout: the operation has
// begun and not ended, the device's context is current.
#pragma once

#include <array>

#include "operation/operation.h"

namespace dlbridge::cuda {

class BounceRing {
 public:
  /// Up to here one block and one copy on the host beat a ring.
  static constexpr int64_t kOneBlockBytes = int64_t{256} << 10;
  static constexpr int64_t kSmallestSlot = int64_t{256} << 10;

  /// Takes slots for a tensor like `tensor`, where the pool's limit allows two small ones at least.
  BounceRing(Operation& operation, const TensorView& tensor);

  /// Whether there are slots. What follows requires it.
  bool is_ready() const noexcept { return count_ > 0; }

  BounceRing(const BounceRing&) = delete;
  BounceRing& operator=(const BounceRing&) = delete;
  /// Leaves the slots to the operation where it did not come to its end: they may be in use.
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
