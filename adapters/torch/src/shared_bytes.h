// SharedBytes: the memory of a storage, shared between the storage and every export of it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>

#include <atomic>

#include "dlbridge/loan.h"
#include "recycled.h"

namespace dlbridge {

struct SharedBytes;

/// A storage over memory that a loan brought. Everywhere else it is a StorageImpl; it only knows
/// the bytes that it shares with its exports, so that both can part without a weak reference.
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

  std::atomic<SharedBytes*> bytes_{nullptr};  ///< from the first export on; written under the lock
};

/// One share in the bytes behind `storage`. CPU storages are swapped to shared bytes on their first
/// export; shared, mapped and CUDA storages are held as they are. Marks the storage not resizable.
/// Throws std::bad_alloc.
Deleter share_storage(c10::StorageImpl& storage);

/// The storage that `original` came from, if it was made by share_storage and that storage still
/// holds those bytes.
c10::intrusive_ptr<c10::StorageImpl> original_storage(const Deleter& original) noexcept;

}  // namespace dlbridge
