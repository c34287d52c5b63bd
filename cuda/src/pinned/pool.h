// SPDX-License-Identifier: Apache-2.0
// PinnedPool: reuses page-locked host memory that any device may copy to and from.
//
// A block is in exactly one state: free, owned, in flight, deferred or leaked, and the bytes of
// the five add up to the bytes registered, which never exceed the limit.
//   owned        a PinnedBlock, or the Deleter made from it, holds it
//   in flight    retired with tickets: events that the host has not seen complete yet
//   deferred     released by a caller, whose own asynchronous copies may still use it: it waits for
//   a
//                fence, which a later take() or poll() records
//   leaked       a failed device may still write to it: never used again; so is a block that a
//   caller
//                held when the device failed, once it is released
//
// Blocks up to 8 MiB come in four sizes a doubling and share segments; larger ones are segments of
// their own, in steps of 2 MiB. Small ones are kept by the thread that freed them.
//
// Owns: the segments. Blocks that are still held when the pool ends keep theirs mapped, no longer
// registered. Thread: any, for everything but the destructor. CUDA is called by take, trim,
// set_limit, poll, poll_if_due and the destructor only, with no lock held; they require a current
// context.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/loan.h"
#include "pinned/segment.h"
#include "runtime/cuda_api.h"
#include "runtime/event_pool.h"

namespace dlbridge::cuda {

/// The events that must complete before a released block may be reused.
struct Fence {
  std::vector<PooledEvent> events;  ///< none: no device is in use, nothing to wait for
  bool capturing = false;           ///< a capture forbids one now: the blocks go on waiting
  bool failed = false;              ///< a device failed: the blocks are leaked
};

/// Records and queries fences. Called from any thread, without a lock of the pool.
class FenceSource {
 public:
  virtual ~FenceSource();
  /// Records an event on the legacy stream of every device in use, except where that stream is
  /// capturing.
  virtual Fence fence() noexcept = 0;
  /// 1 done, 0 not yet, -1 the device failed.
  virtual int passed(const PooledEvent& event) noexcept = 0;
};

namespace pinned {
class Core;
struct Block;
}  // namespace pinned

/// Owns one block. Move-only. The destructor frees the block at once, so the holder must know that
/// nothing uses it. Its functions call no CUDA, take no GIL, and wait only for short critical
/// sections.
class PinnedBlock {
 public:
  PinnedBlock() noexcept = default;
  PinnedBlock(PinnedBlock&& other) noexcept
      : block_(std::exchange(other.block_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  PinnedBlock& operator=(PinnedBlock&& other) noexcept {
    PinnedBlock taken(std::move(other));
    std::swap(block_, taken.block_);
    std::swap(data_, taken.data_);
    std::swap(size_, taken.size_);
    return *this;
  }
  ~PinnedBlock() {
    if (block_ != nullptr) free(block_);
  }

  explicit operator bool() const noexcept { return block_ != nullptr; }
  std::byte* data() const noexcept { return data_; }
  /// Bytes asked for.
  size_t size() const noexcept { return size_; }
  /// Bytes of the block. Requires: not empty.
  size_t capacity() const noexcept;

  // The functions below require a block and leave the object empty.

  /// In flight until the host has seen all tickets complete, then free. Empty tickets count as
  /// complete.
  void retire(PooledEvent ticket) && noexcept;
  void retire(std::vector<PooledEvent> tickets) && noexcept;

  /// Returns a deleter for a result: it defers the free of the block until a fence and the tickets
  /// of add_ticket() have passed. May run on any thread, and after the pool's end.
  [[nodiscard]] Deleter into_deleter() && noexcept;

  /// Never used again, and counted.
  void leak() && noexcept;

 private:
  friend class pinned::Core;
  PinnedBlock(pinned::Block* block, std::byte* data, size_t size) noexcept
      : block_(block), data_(data), size_(size) {}
  static void free(pinned::Block* block) noexcept;
  pinned::Block* release() noexcept;

  pinned::Block* block_ = nullptr;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

class PinnedPool {
 public:
  /// `limit`: bytes that may be registered at any time. `piece_bytes`: how much is registered in
  /// one call, a multiple of 8 MiB; tests make it small.
  PinnedPool(const CudaApi& api, FenceSource& fences, size_t limit,
             size_t piece_bytes = PinnedSegment::kPieceBytes);
  /// Waits at most a second for blocks in flight and deferred, then unregisters; leaks the others.
  /// Callers may hold blocks and release them meanwhile. Requires: no other call of the pool.
  ~PinnedPool();
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;

  /// A block of at least `bytes` (0: a valid block of size 0), aligned to 64 bytes, above 8 MiB
  /// to 2 MiB; or an empty one if the limit does not allow it, also after unregistering free
  /// memory. A block lies inside one registered piece unless it is larger than a piece. Throws
  /// Error (out_of_memory: the system or the driver refused, also after all free memory was
  /// unregistered; device_failed, after_fork), std::bad_alloc.
  PinnedBlock take(size_t bytes);

  /// A further event that must complete before the block at `address` is used again; false where no
  /// owned block holds the address. Throws std::bad_alloc.
  bool add_ticket(const void* address, PooledEvent event);
  /// Whether an owned block holds the address.
  bool holds(const void* address) const noexcept;
  /// Bytes from `address` to the end of the registered piece that holds it, which no single copy
  /// may cross; 0 where the pool does not hold it.
  size_t bytes_to_seam(const void* address) const noexcept;

  /// Takes fences for what waits for one, and frees what has passed.
  void poll();
  /// As poll() if much memory waits; otherwise does nothing. Called at the end of every operation.
  void poll_if_due() noexcept;
  /// Leaks the blocks that callers hold or have released so far: a device failed and may still use
  /// them.
  void device_fails() noexcept;
  /// Unregisters free segments, the longest idle first, until at most `keep_bytes` are registered.
  /// Returns the bytes freed.
  size_t trim(size_t keep_bytes);
  /// Unregisters free segments above the new limit. Used blocks stay; nothing is registered until
  /// the limit allows it.
  void set_limit(size_t limit);

  PinnedStats stats() const noexcept;

 private:
  std::shared_ptr<pinned::Core> core_;
};

}  // namespace dlbridge::cuda
