#include "shared_bytes.h"

#include <ATen/MapAllocator.h>
#include <c10/core/StorageImpl.h>

#include <array>
#include <atomic>
#include <thread>

#include "recycled.h"

// THManagedMapAllocator::fromDataPtr lives in libshm, which torch's Python package loads and a
// LibTorch program need not have: then no such memory exists, and the weak symbol is null.
[[gnu::weak]] void* managed_map_allocator(const c10::DataPtr& data) __asm__(
    "_ZN21THManagedMapAllocator11fromDataPtrERKN3c107DataPtrE");

namespace dlbridge {
namespace {

// Referenced by the storage's DataPtr and by every export. The weak pointer finds the way back; it
// keeps the StorageImpl's few words, not its memory.
struct SharedBytes {
  std::atomic<int64_t> references;
  at::DataPtr original;
  c10::StorageImpl* storage;  // one weak reference

  ~SharedBytes() { c10::raw::weak_intrusive_ptr::decref(storage); }
  static void* operator new(size_t size) { return SpareBlocks<SharedBytes>::take(size); }
  static void operator delete(void* block) noexcept { SpareBlocks<SharedBytes>::put(block); }
};

void release_bytes(void* context) noexcept {
  auto* bytes = static_cast<SharedBytes*>(context);
  if (bytes->references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete bytes;
}

void release_storage(void* context) noexcept {
  c10::raw::intrusive_ptr::decref(static_cast<c10::StorageImpl*>(context));
}

c10::DeleterFnPtr bytes_deleter() noexcept { return release_bytes; }

// Shared memory and mapped files are what their deleter says they are (is_shared(), the file's
// name): the answer depends on the deleter alone, so the last one that was not theirs is
// remembered.
bool is_mapped(const at::DataPtr& data) {
  static std::atomic<c10::DeleterFnPtr> unmapped{nullptr};
  const c10::DeleterFnPtr deleter = data.get_deleter();
  if (deleter == unmapped.load(std::memory_order_relaxed)) return false;
  const bool mapped = at::MapAllocator::fromDataPtr(data) != nullptr ||
                      at::RefcountedMapAllocator::fromDataPtr(data) != nullptr ||
                      (managed_map_allocator != nullptr && managed_map_allocator(data) != nullptr);
  if (!mapped) unmapped.store(deleter, std::memory_order_relaxed);
  return mapped;
}

// Serialises the first exports of a storage. Striped by address; held for a few instructions.
class StorageLock {
 public:
  explicit StorageLock(const void* storage) noexcept
      : flag_(flags_[reinterpret_cast<uintptr_t>(storage) / 64 % flags_.size()]) {
    while (flag_.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
  }
  ~StorageLock() { flag_.clear(std::memory_order_release); }
  StorageLock(const StorageLock&) = delete;
  StorageLock& operator=(const StorageLock&) = delete;

 private:
  static inline std::array<std::atomic_flag, 64> flags_{};
  std::atomic_flag& flag_;
};

// Two references: the storage's and the first export's.
SharedBytes* swap_to_shared(c10::StorageImpl& storage) {
  auto* bytes = new SharedBytes{2, at::DataPtr(), &storage};
  c10::raw::weak_intrusive_ptr::incref(&storage);
  at::DataPtr& data = storage._mutable_data_ptr_no_checks();
  at::DataPtr shared(data.get(), bytes, release_bytes, data.device());
  bytes->original = std::move(data);
  storage.set_data_ptr_noswap(std::move(shared));
  return bytes;
}

}  // namespace

Owner share_storage(c10::StorageImpl& storage) {
  if (storage.device_type() == at::kCPU) [[likely]] {
    const StorageLock lock(&storage);
    const at::DataPtr& data = storage._mutable_data_ptr_no_checks();
    if (data.get_deleter() == bytes_deleter()) [[likely]] {
      auto* bytes = static_cast<SharedBytes*>(data.get_context());
      bytes->references.fetch_add(1, std::memory_order_relaxed);
      return {bytes, release_bytes};
    }
    if (!is_mapped(data)) {
      SharedBytes* bytes = swap_to_shared(storage);
      storage.set_resizable(false);
      return {bytes, release_bytes};
    }
  }
  storage.set_resizable(false);
  c10::raw::intrusive_ptr::incref(&storage);
  return {&storage, release_storage};
}

c10::intrusive_ptr<c10::StorageImpl> storage_behind(const Owner& origin) noexcept {
  if (origin.release == release_bytes) {
    auto* bytes = static_cast<SharedBytes*>(origin.context);
    auto storage = c10::intrusive_ptr<c10::StorageImpl>::reclaim(
        c10::raw::weak_intrusive_ptr::lock(bytes->storage));
    // share_memory_() and the like give the storage other bytes; then there is no way back.
    if (storage && storage->_mutable_data_ptr_no_checks().get_context() == bytes) return storage;
  } else if (origin.release == release_storage) {
    return c10::intrusive_ptr<c10::StorageImpl>::unsafe_reclaim_from_nonowning(
        static_cast<c10::StorageImpl*>(origin.context));
  }
  return {};
}

}  // namespace dlbridge
