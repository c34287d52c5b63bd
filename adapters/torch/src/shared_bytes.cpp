// SPDX-License-Identifier: Apache-2.0
#include "shared_bytes.h"

#include <ATen/MapAllocator.h>
#include <c10/core/CPUAllocator.h>

#include <array>
#include <atomic>
#include <cassert>
#include <memory>
#include <mutex>
#include <thread>
#include <typeinfo>

#include "dlbridge/copy.h"
#include "dlbridge/torch.h"
#include "torch_versions.h"

// THManagedMapAllocator::fromDataPtr lives in libshm, which torch's Python package loads and a
// LibTorch program need not have: then no such memory exists, and the weak symbol is null.
[[gnu::weak]] void* managed_map_allocator(const c10::DataPtr& data) __asm__(
    "_ZN21THManagedMapAllocator11fromDataPtrERKN3c107DataPtrE");

namespace dlbridge {
namespace {

// Serialises the first exports of a storage. Striped by address; held for a few instructions.
class StorageLock {
 public:
  explicit StorageLock(const void* storage) noexcept : flag_(flag_of(storage)) {
    while (flag_.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
  }
  ~StorageLock() { flag_.clear(std::memory_order_release); }
  StorageLock(const StorageLock&) = delete;
  StorageLock& operator=(const StorageLock&) = delete;

  static std::atomic_flag& flag_of(const void* storage) noexcept {
    return flags_[reinterpret_cast<uintptr_t>(storage) / 64 % flags_.size()];
  }

 private:
  static inline std::array<std::atomic_flag, 64> flags_{};
  std::atomic_flag& flag_;
};

c10::intrusive_ptr<c10::StorageImpl> lock_weak(c10::StorageImpl* storage) noexcept {
  return c10::intrusive_ptr<c10::StorageImpl>::reclaim(c10::raw::weak_intrusive_ptr::lock(storage));
}

}  // namespace

// Shared by the storage's DataPtr and by every export. `storage` is the original storage: a weak
// reference if torch made it, which keeps the StorageImpl but not its memory. To a LoanStorage
// there is no reference: `state` has a bit while it exists (kStorageExists) and counts the threads
// that acquire it (kVisitor), for which its destructor waits.
struct SharedBytes {
  static constexpr uint64_t kShare = 1;
  static constexpr uint64_t kShares = 0xffffffff;
  static constexpr uint64_t kStorageExists = uint64_t{1} << 32;
  static constexpr uint64_t kVisitor = uint64_t{1} << 33;

  std::atomic<uint64_t> state;
  at::DataPtr original;
  c10::StorageImpl* const storage;
  const bool weak;
  OnWrite guard = OnWrite::unset;

  // Two shares: the storage's and the first export's. Called under the storage's lock.
  explicit SharedBytes(c10::StorageImpl& original_impl) noexcept
      : storage(&original_impl), weak(&typeid(original_impl) != &typeid(LoanStorage)) {
    state.store(2 * kShare + (weak ? 0 : kStorageExists), std::memory_order_relaxed);
    if (weak) {
      c10::raw::weak_intrusive_ptr::incref(&original_impl);
      return;
    }
    std::atomic<SharedBytes*>& tie = static_cast<LoanStorage&>(original_impl).bytes_;
    SharedBytes* replaced = tie.load(std::memory_order_relaxed);
    tie.store(this, std::memory_order_relaxed);
    if (replaced != nullptr) replaced->state.fetch_and(~kStorageExists, std::memory_order_relaxed);
  }

  // Requires: no share but the last.
  ~SharedBytes() {
    assert((state.load(std::memory_order_relaxed) & kShares) <= kShare);
    if (weak) c10::raw::weak_intrusive_ptr::decref(storage);
    if (weak || (state.load(std::memory_order_acquire) & kStorageExists) == 0) return;
    // The storage has other bytes now. The lock keeps it from ending meanwhile.
    const StorageLock lock(storage);
    if ((state.load(std::memory_order_relaxed) & kStorageExists) != 0)
      static_cast<LoanStorage*>(storage)->bytes_.store(nullptr, std::memory_order_relaxed);
  }

  // The caller keeps a share.
  c10::intrusive_ptr<c10::StorageImpl> acquire_storage() noexcept {
    if (weak) return lock_weak(storage);
    const bool lives = (state.fetch_add(kVisitor, std::memory_order_acquire) & kStorageExists) != 0;
    auto found = lives ? lock_weak(storage) : c10::intrusive_ptr<c10::StorageImpl>();
    state.fetch_sub(kVisitor, std::memory_order_release);
    return found;
  }

  void drop_share() noexcept {
    // The last holder: only a holder can add another.
    if ((state.load(std::memory_order_acquire) & kShares) == kShare ||
        (state.fetch_sub(kShare, std::memory_order_acq_rel) & kShares) == kShare)
      end();
  }
  [[gnu::noinline]] void end() noexcept { delete this; }

  void forget_storage() noexcept {
    state.fetch_and(~kStorageExists, std::memory_order_acq_rel);
    while (state.load(std::memory_order_acquire) >= kVisitor) std::this_thread::yield();
  }

  // The storage ends and drops its share: one step, unless a thread is acquiring it.
  void drop_storage_and_share() noexcept {
    uint64_t seen = state.load(std::memory_order_acquire);
    while (seen < kVisitor && (seen & kShares) != kShare) {
      if (state.compare_exchange_weak(seen, seen - kStorageExists - kShare,
                                      std::memory_order_acq_rel, std::memory_order_acquire))
        return;
    }
    forget_storage();
    drop_share();
  }

  static void* operator new(size_t size) { return SpareBlocks<SharedBytes>::take(size); }
  static void operator delete(void* block) noexcept { SpareBlocks<SharedBytes>::put(block); }
};

namespace {

void release_bytes(void* context) noexcept { static_cast<SharedBytes*>(context)->drop_share(); }

}  // namespace

void LoanStorage::part() noexcept {
  at::DataPtr& data = _mutable_data_ptr_no_checks();
  auto* bytes = bytes_.load(std::memory_order_relaxed);
  if (data.get_deleter() == c10::DeleterFnPtr(release_bytes) && data.get_context() == bytes) {
    (void)data.release_context();
    return bytes->drop_storage_and_share();
  }
  const StorageLock lock(this);
  bytes = bytes_.load(std::memory_order_relaxed);
  if (bytes != nullptr) bytes->forget_storage();
}

namespace {

void release_storage(void* context) noexcept {
  c10::raw::intrusive_ptr::decref(static_cast<c10::StorageImpl*>(context));
}

c10::DeleterFnPtr bytes_deleter() noexcept { return release_bytes; }

// Shared memory and mapped files are known by their deleter (is_shared(), the file's name). The
// last deleter of other memory is remembered.
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

// Called under the storage's lock. Other threads may read the address without it: it stays the
// same.
SharedBytes* swap_to_shared(c10::StorageImpl& storage) {
  auto* bytes = new SharedBytes(storage);
  at::DataPtr& data = storage._mutable_data_ptr_no_checks();
  at::DataPtr shared(data.get(), bytes, release_bytes, data.device());
  bytes->original = std::move(data);
  storage.set_data_ptr_noswap(std::move(shared));
  return bytes;
}

}  // namespace

namespace {

// The deleter of a guarded storage, which marks it. Its exports have release_bytes.
void release_guarded(void* context) noexcept { release_bytes(context); }

c10::DeleterFnPtr guarded_deleter() noexcept { return release_guarded; }

bool is_guarded(const at::DataPtr& data) noexcept {
  return data.get_deleter() == guarded_deleter();
}

std::atomic<void (*)()> g_refuse_write{nullptr};
std::atomic<bool (*)()> g_is_replaced{nullptr};

// Torch calls the materializer also before it replaces the memory, which writes nothing.
bool is_replaced() {
  const auto asked = g_is_replaced.load(std::memory_order_acquire);
  return asked != nullptr && asked();
}

void refuse_write(c10::StorageImpl*) {
  if (is_replaced()) return;
  if (auto* refuse = g_refuse_write.load(std::memory_order_acquire)) refuse();
  throw Error(ErrorCode::read_only, "storage", kWriteRefused);
}

// What owns the memory of a storage after its first write. Readers may have the address of the
// memory before, which therefore stays.
struct WrittenBytes {
  at::DataPtr copy;
  SharedBytes* before;
};

void release_written(void* context) noexcept {
  const std::unique_ptr<WrittenBytes> owner(static_cast<WrittenBytes*>(context));
  owner->before->drop_share();
}

// Copies the memory of a guarded storage before its first write. Torch calls it on every thread
// that is about to write; all but the first wait for the copy and find it done.
[[gnu::cold]] void copy_before_write(c10::StorageImpl* storage) {
  static std::array<std::mutex, 16> locks;
  const std::lock_guard once(locks[reinterpret_cast<uintptr_t>(storage) / 64 % locks.size()]);
  at::DataPtr& data = storage->_mutable_data_ptr_no_checks();
  if (!is_guarded(data) || is_replaced()) return;
  auto size = static_cast<int64_t>(storage->nbytes());
  auto owner = std::make_unique<WrittenBytes>(
      c10::GetCPUAllocator()->allocate(static_cast<size_t>(size)), nullptr);
  int64_t stride = 1;
  TensorView before;
  before.data = data.get();
  before.shape = &size;
  before.strides = &stride;
  before.ndim = 1;
  before.dtype = DType(TypeCode::uint, 8);
  TensorView copy = before;
  copy.data = owner->copy.get();
  copy_host(before, copy, /*fresh=*/true);
  const StorageLock lock(storage);
  owner->before = static_cast<SharedBytes*>(data.release_context());
  storage->set_data_ptr_noswap(
      at::DataPtr(copy.data, owner.release(), release_written, data.device()));
  // Before torch clears the materializer, which other threads read without a lock.
  std::atomic_thread_fence(std::memory_order_release);
}

// A further reference to bytes that were shared before, or null. Called under the storage's lock.
SharedBytes* share_again(c10::StorageImpl& storage, c10::DeleterFnPtr deleter) noexcept {
  const at::DataPtr& data = storage._mutable_data_ptr_no_checks();
  if (data.get_deleter() != deleter) return nullptr;
  auto* bytes = static_cast<SharedBytes*>(data.get_context());
  bytes->state.fetch_add(SharedBytes::kShare, std::memory_order_relaxed);
  return bytes;
}

[[gnu::noinline]] Deleter share_first(c10::StorageImpl& storage) {
  if (storage.device_type() == at::kCPU) {
    const StorageLock lock(&storage);
    for (const c10::DeleterFnPtr deleter : {bytes_deleter(), guarded_deleter()})
      if (SharedBytes* bytes = share_again(storage, deleter)) return {bytes, release_bytes};
    if (!is_mapped(storage._mutable_data_ptr_no_checks())) {
      SharedBytes* bytes = swap_to_shared(storage);
      storage.set_resizable(false);
      return {bytes, release_bytes};
    }
  }
  storage.set_resizable(false);
  c10::raw::intrusive_ptr::incref(&storage);
  return {&storage, release_storage};
}

}  // namespace

const char* const kWriteRefused =
    "the memory is read-only, and on_write=\"raise\" refuses a write to it: write to x.clone(), or "
    "convert with on_write=\"copy\" or copy=None. Calls that ask for a writable "
    "pointer, such as x.numpy(), x.data_ptr() and code of torch.compile, are refused, too: "
    "dlbridge.to_numpy(x) returns a read-only array";

void set_write_refusal(void (*refuse)(), bool (*is_replaced)()) noexcept {
  g_refuse_write.store(refuse, std::memory_order_release);
  g_is_replaced.store(is_replaced, std::memory_order_release);
}

[[gnu::cold]] void guard_storage(c10::StorageImpl& storage, OnWrite on_write) {
  SharedBytes* bytes = swap_to_shared(storage);
  at::DataPtr& data = storage._mutable_data_ptr_no_checks();
  (void)data.release_context();
  storage.set_data_ptr_noswap(at::DataPtr(data.get(), bytes, release_guarded, data.device()));
  bytes->guard = on_write;
  bytes->drop_share();  // that of an export
  set_materializer(storage, on_write == OnWrite::raise ? refuse_write : copy_before_write);
}

OnWrite guard_of(c10::StorageImpl& storage) noexcept {
  const at::DataPtr& data = storage._mutable_data_ptr_no_checks();
  return is_guarded(data) ? static_cast<SharedBytes*>(data.get_context())->guard : OnWrite::unset;
}

OnWrite guard_of(const Deleter& original) noexcept {
  if (original.release != release_bytes) return OnWrite::unset;
  return static_cast<SharedBytes*>(original.context)->guard;
}

Deleter share_storage(c10::StorageImpl& storage) {
  // No call and no object with a destructor: nothing to save on the stack.
  std::atomic_flag& lock = StorageLock::flag_of(&storage);
  if (storage.device_type() == at::kCPU && !lock.test_and_set(std::memory_order_acquire))
      [[likely]] {
    SharedBytes* bytes = share_again(storage, bytes_deleter());
    lock.clear(std::memory_order_release);
    if (bytes != nullptr) [[likely]]
      return {bytes, release_bytes};
  }
  return share_first(storage);
}

c10::intrusive_ptr<c10::StorageImpl> original_storage(const Deleter& original) noexcept {
  if (original.release == release_bytes) {
    auto* bytes = static_cast<SharedBytes*>(original.context);
    auto storage = bytes->acquire_storage();
    // share_memory_() and the like give the storage other bytes.
    if (storage && storage->_mutable_data_ptr_no_checks().get_context() == bytes) return storage;
  } else if (original.release == release_storage) {
    return c10::intrusive_ptr<c10::StorageImpl>::unsafe_reclaim_from_nonowning(
        static_cast<c10::StorageImpl*>(original.context));
  }
  return {};
}

}  // namespace dlbridge
