// SPDX-License-Identifier: Apache-2.0
// SharedBytes: the memory of a storage, shared between the storage and every export of it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>

#include <atomic>

#include "dlbridge/loan.h"
#include "dlbridge/plan.h"
#include "spare_blocks.h"

namespace dlbridge {

struct SharedBytes;

/// A storage over the memory of a loan. It knows the bytes that it shares with its exports, so that
/// these need no weak reference to it, which would cost the bar "and back" of
/// benchmarks/overhead.py (3.5, direct tier). Otherwise a StorageImpl.
class LoanStorage final : public c10::StorageImpl {
 public:
  using StorageImpl::StorageImpl;
  ~LoanStorage() override {
    if (bytes_.load(std::memory_order_relaxed) != nullptr) part();
  }

  static void* operator new(size_t size) { return SpareBlocks<LoanStorage>::take(size); }
  static void operator delete(void* block) noexcept { SpareBlocks<LoanStorage>::put(block); }

 private:
  friend struct SharedBytes;
  void part() noexcept;

  std::atomic<SharedBytes*> bytes_{nullptr};  ///< set by the first export, under the lock
};

/// A reference to the bytes of `storage`. The first export of a CPU storage swaps its DataPtr for
/// shared bytes; of shared, mapped and CUDA storages the StorageImpl is held. Makes the storage not
/// resizable. Throws std::bad_alloc.
Deleter share_storage(c10::StorageImpl& storage);

/// Guards a storage whose memory must not be written: see to_guarded_tensor(). Requires: a fresh
/// LoanStorage. Throws std::bad_alloc.
void guard_storage(c10::StorageImpl& storage, OnWrite on_write);

/// What a write to the storage does; unset where it has no guard (any more).
OnWrite guard_of(c10::StorageImpl& storage) noexcept;

/// The same of the storage that share_storage made `original` of, before it was written.
OnWrite guard_of(const Deleter& original) noexcept;

/// The storage that share_storage made `original` of, if it still holds those bytes.
c10::intrusive_ptr<c10::StorageImpl> original_storage(const Deleter& original) noexcept;

}  // namespace dlbridge
