// PinnedPool: page-locked host memory that any device may copy to and from, kept and used again.
//
// A block is in exactly one state: free, owned, in flight, quarantined or leaked, and the bytes of
// the five add up to the bytes registered, which never exceed the limit.
//   owned        a PinnedBlock, or the Deleter made from it, holds it
//   in flight    retired with tickets: events that the host has not seen complete yet
//   quarantined  given back by a user, who may have handed it to somebody else's asynchronous copy:
//                it waits for a fence, which is taken by the next take() that has need of it
//   leaked       a device failed, so nobody knows what may still write to it: never used again;
//                what a user held at that time gets there when it is given back
//
// Blocks up to 8 MiB come in four sizes a doubling and share segments; larger ones are segments of
// their own, in steps of 2 MiB. Small ones are kept by the thread that freed them.
//
// Owns: the segments. Blocks that are still held when the pool ends keep theirs mapped, no longer
// registered. Thread: any, for everything but the destructor. CUDA is called by take, trim,
// set_limit, settle, poll_if_due and the destructor only, with no lock held; they require a current
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

/// What must pass before memory that a user held may be used again.
struct Fence {
  std::vector<PooledEvent> events;  ///< none: no device is in use, nothing to wait for
  bool capturing = false;  ///< a capture does not allow one now: what waits for it goes on waiting
  bool failed = false;     ///< a device did not let it: what waits for this is leaked
};

/// Where fences come from. Called with no lock of the pool held, from any thread.
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

/// One block. Whoever has this owns it. Move-only; destroying it frees the block at once, so the
/// holder has seen that nothing uses it any more. None of its functions calls CUDA, takes the GIL
/// or waits for more than another thread's few pointer updates.
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
  /// Bytes that there are. Requires: not empty.
  size_t capacity() const noexcept;

  // What follows requires a block, and leaves none.

  /// In flight until the host has seen all tickets complete, then free. Empty tickets count as
  /// complete.
  void retire(PooledEvent ticket) && noexcept;
  void retire(std::vector<PooledEvent> tickets) && noexcept;

  /// For a result that a user holds: the release puts the block into quarantine, with the tickets
  /// that add_ticket() named. It may run on any thread, and after the pool's end.
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
  /// Waits for what is in flight and in quarantine, a second at most, then unregisters. What did
  /// not pass in time is leaked. Blocks may still be held, and released meanwhile. Requires: nobody
  /// calls the pool any more.
  ~PinnedPool();
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;

  /// A block of at least `bytes` (0: a valid block of size 0), aligned to 64 bytes, above 8 MiB
  /// to 2 MiB; or an empty one where the limit does not allow it, free memory given back first. A
  /// block lies inside one registered piece unless it is larger than a piece. Throws Error
  /// (out_of_memory: the system or the driver refused, also after all free memory was given back;
  /// device_failed, after_fork), std::bad_alloc.
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
  /// The same where much waits or stands behind a fence, else next to nothing: for the end of
  /// whatever else is done.
  void poll_if_due() noexcept;
  /// A device fails for good, and no fence will cover it: what users hold by now, or have given
  /// back, may be in its use for ever and is leaked rather than used again.
  void device_fails() noexcept;
  /// Gives free segments back, the longest idle first, until at most `keep_bytes` are registered.
  /// Returns the bytes given back.
  size_t trim(size_t keep_bytes);
  /// Gives free segments back where more is registered than the new limit allows; what is not free
  /// stays, and nothing is added until it fits.
  void set_limit(size_t limit);

  PinnedStats stats() const noexcept;

 private:
  std::shared_ptr<pinned::Core> core_;
};

}  // namespace dlbridge::cuda
