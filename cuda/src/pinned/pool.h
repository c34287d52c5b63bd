// SPDX-License-Identifier: Apache-2.0
// PinnedPool: reuses page-locked host memory that any device may copy to and from.
//
// A block is in exactly one State, and the bytes of the five add up to the bytes registered, which
// never exceed the limit. Blocks up to 8 MiB are cut from shared segments and from reserved ones;
// neighbours are merged where a take finds nothing else. A larger block is a segment of its own,
// which is cut at the limit only, or is cut from a reserved segment.
//
// Owns: the segments. Thread: any. CUDA is called by take, reserve, trim, set_limit, poll and
// poll_if_due only, with no lock held that a release takes; take and reserve require a CallGuard.
// In the child of a fork releases do nothing, and nothing else may be called.
#pragma once

#include <atomic>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/loan.h"
#include "pinned/segment.h"
#include "runtime/cuda_api.h"
#include "runtime/event_pool.h"
#include "runtime/process.h"

namespace dlbridge::cuda {

/// Events on the legacy streams of the devices in use; none if no device is. When all are complete,
/// the blocks that were released before may be reused.
using Fence = std::vector<PooledEvent>;

/// Records a fence, unless a legacy stream is capturing, or is busy and it is not urgent. Throws
/// std::exception if CUDA refuses one; the blocks go on waiting. Called from any thread, without a
/// lock of the pool that a release takes.
using FenceSource = std::function<std::optional<Fence>(bool urgent)>;

class PinnedPool;

namespace pinned {

inline constexpr size_t kSmallest = 256;
inline constexpr size_t kHuge = PinnedSegment::kGranularity;
inline constexpr size_t kLargestShared = size_t{8} << 20;

/// Rounds up to whole huge pages; SIZE_MAX where that overflows.
constexpr size_t whole_pages(size_t bytes) noexcept {
  return bytes <= SIZE_MAX - kHuge ? (bytes + kHuge - 1) / kHuge * kHuge : SIZE_MAX;
}

/// The bytes of a block for a request of `bytes`: four sizes a doubling up to 8 MiB (256, 320, 384,
/// 448, 512, 640, ...), so that at most a quarter is unused; above, steps of 2 MiB.
constexpr size_t capacity_for(size_t bytes) noexcept {
  if (bytes <= kSmallest) return kSmallest;
  if (bytes > kLargestShared) return whole_pages(bytes);
  const size_t step = std::bit_floor(bytes - 1) / 4;
  return (bytes + step - 1) / step * step;
}

/// The largest request that a block of `bytes` serves.
constexpr size_t served_by(size_t bytes) noexcept {
  const size_t step = bytes > kLargestShared ? kHuge : std::bit_floor(bytes) / 4;
  return bytes / step * step;
}

/// Where the bytes of a block are counted. A block is
///   free,
///   owned        by a PinnedBlock, or the Deleter made from it,
///   in_flight    with tickets: events that the host has not seen complete yet,
///   quarantined  if its owner dropped it, whose own copies may still use it: it waits for a fence,
///   leaked       if a failed device may still write to it, or could when a caller held it.
using State = size_t PinnedStats::*;

struct Segment {
  PinnedSegment memory;
  bool reserved;  // stays registered when it is idle
  size_t free = 0;
  std::chrono::steady_clock::time_point idle_since{};  // when the last block became free

  Segment(size_t bytes, size_t piece_bytes, bool is_reserved)
      : memory(bytes, piece_bytes), reserved(is_reserved) {}
  bool idle() const noexcept { return free == memory.size(); }
};

struct Block;
struct Smaller {
  using is_transparent = void;
  bool operator()(const Block* a, const Block* b) const noexcept;
  bool operator()(const Block* a, size_t bytes) const noexcept;
};
/// Blocks by size and address. A block brings its own node, so that nothing is allocated.
using BlockSet = std::set<Block*, Smaller>;

struct Block {
  PinnedPool* pool = nullptr;
  Segment* segment = nullptr;
  std::byte* data = nullptr;
  size_t bytes = 0;
  State state = &PinnedStats::owned;
  BlockSet::node_type node;  // empty while the block is in a set
  std::vector<PooledEvent> tickets;
  unsigned failures = 0;  // of devices, when a caller was given it

  /// Whether it is a large block that is a segment of its own.
  bool is_whole() const noexcept {
    return bytes > kLargestShared && bytes == segment->memory.size() && !segment->reserved;
  }
};

inline bool Smaller::operator()(const Block* a, const Block* b) const noexcept {
  return a->bytes != b->bytes ? a->bytes < b->bytes : a->data < b->data;
}
inline bool Smaller::operator()(const Block* a, size_t bytes) const noexcept {
  return a->bytes < bytes;
}

}  // namespace pinned

/// Owns one block. Move-only. The destructor frees the block at once, so the holder must know that
/// nothing uses it. Its functions call no CUDA, take no GIL, and wait only for short critical
/// sections.
class PinnedBlock {
 public:
  PinnedBlock() noexcept = default;

  explicit operator bool() const noexcept { return block_ != nullptr; }
  std::byte* data() const noexcept { return block_ != nullptr ? block_->data : nullptr; }
  /// Bytes of the block, as capacity_for() has them. Requires: not empty.
  size_t size() const noexcept { return block_->bytes; }

  // The functions below require a block and leave the object empty.

  /// In flight until the host has seen the ticket complete, then free. An empty ticket counts as
  /// complete.
  void retire(PooledEvent ticket) && noexcept;

  /// Returns a deleter for a result: it defers the free of the block until a fence and the tickets
  /// of add_ticket() have passed. May run on any thread, and after the pool's end.
  [[nodiscard]] Deleter into_deleter() && noexcept;

  /// Never used again, and counted.
  void leak() && noexcept;

 private:
  friend class PinnedPool;
  struct Free {
    void operator()(pinned::Block* block) const noexcept;
  };
  explicit PinnedBlock(pinned::Block* block) noexcept : block_(block) {}

  std::unique_ptr<pinned::Block, Free> block_;
};

class PinnedPool {
 public:
  using Clock = std::chrono::steady_clock;

  /// `limit`: bytes that may be registered at any time. `piece_bytes`: how much is registered in
  /// one call, a multiple of 8 MiB; tests make it small. `idle_age`: how long a segment stays
  /// unused before a thread of the pool unregisters it; 0: there is no thread.
  PinnedPool(const CudaApi& api, FenceSource fences, size_t limit,
             size_t piece_bytes = PinnedSegment::kPieceBytes, Clock::duration idle_age = {});
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;
  /// Requires: no block is held. That of a process is never destroyed.
  ~PinnedPool();

  /// A block of at least `bytes`, aligned to 64 bytes; or an empty one if the limit or the driver
  /// does not allow it. Nothing is unregistered. A block lies inside one registered piece unless it
  /// is larger than a piece. Throws Error (device_failed), std::bad_alloc.
  PinnedBlock take(size_t bytes);

  /// Registers `bytes` more, rounded up to 2 MiB, piece by piece, each usable at once; they stay
  /// until trim() or set_limit(). Throws Error (out_of_memory if the limit does not allow all, or
  /// the driver refuses, which keeps what was registered; device_failed).
  void reserve(size_t bytes);

  /// A further event that must complete before the block at `address` is used again; false where no
  /// owned block holds the address. Throws std::bad_alloc.
  bool add_ticket(const void* address, PooledEvent event);
  /// Whether an owned block holds the address.
  bool holds(const void* address) const noexcept;
  /// Bytes from `address` to the end of the registered piece that holds it, which no single copy
  /// may cross; 0 where the pool does not hold it.
  size_t bytes_to_seam(const void* address) const noexcept;

  /// Records a fence for what waits for one, and frees what has passed; what the poll of another
  /// thread finds is free on return, too. `may_be_urgent`: records it even where that makes streams
  /// wait for each other, if much memory waits.
  void poll(bool may_be_urgent = true) noexcept;
  /// Records and polls a fence if much memory waits for one and no other thread polls. Called at
  /// the end of every operation.
  void poll_if_due() noexcept;
  /// Leaks the blocks that callers hold or have released so far: a device failed and may still use
  /// them.
  void device_fails() noexcept { ++failures_; }
  /// Unregisters idle segments, the longest idle first, until at most `keep_bytes` are registered.
  /// Returns the bytes freed.
  size_t trim(size_t keep_bytes);
  /// Unregisters idle segments above the new limit. Used blocks stay; nothing is registered until
  /// the limit allows it.
  void set_limit(size_t limit);
  /// What the pool's thread does: unregisters segments that are idle since `before`, and what takes
  /// that were refused need; not reserved ones.
  void tidy(Clock::time_point before);
  /// Ends the thread and reservations; waits for them at most so long.
  void stop(Clock::duration longest = std::chrono::hours(24)) noexcept;
  /// For tests that replace the engine: waits at most a second for blocks in flight and deferred,
  /// then unregisters everything. Blocks that are held stay mapped, so the pool must stay, too.
  void end();

  PinnedStats stats() const noexcept;

 private:
  friend class PinnedBlock;
  using Block = pinned::Block;
  using BlockSet = pinned::BlockSet;
  using Segment = pinned::Segment;
  using Lock = std::unique_lock<std::mutex>;
  using Blocks = std::map<const std::byte*, Block>;

  bool forked() const noexcept { return forks() != forks_; }
  void free(Block* block, PooledEvent ticket) noexcept;
  static void release_result(void* block) noexcept;

  // pool.cpp: blocks. Require: the lock.
  void move(Block* block, pinned::State to) noexcept;
  void make_leaked(Block* block) noexcept;
  void make_free(Block* block) noexcept;
  void list_free(Block* block) noexcept;
  Blocks::node_type new_record();
  Block* cut(Block* block, size_t bytes) noexcept;
  Block* own(Block* block, size_t capacity) noexcept;
  Block* take_listed(size_t capacity, bool cuts_whole) noexcept;
  Block* take_merged(size_t capacity) noexcept;
  Block* block_at(const void* address) const noexcept;
  size_t largest() const noexcept;
  size_t used() const noexcept { return count_.registered + growing_; }
  bool allows(size_t bytes) const noexcept {
    return bytes <= count_.limit && used() <= count_.limit - bytes;
  }

  // pool.cpp: tickets and fences. poll_locked() requires poll_mutex_.
  int poll_events(std::vector<PooledEvent>& events) noexcept;
  void poll_locked(bool may_be_urgent, bool tickets_too) noexcept;

  // growth.cpp: segments, the limit, the thread
  Block* take_slowly(size_t capacity);
  bool grow(Lock& lock, size_t bytes, bool reserved);
  size_t unregister_idle(Clock::time_point before, size_t least, bool reserved_too);
  void run_thread() noexcept;

  const CudaApi& api_;
  const FenceSource fences_;
  const size_t piece_bytes_;
  const Clock::duration idle_age_;
  const unsigned forks_ = forks();
  std::atomic<unsigned> failures_{0};    // of devices
  std::atomic<bool> needs_poll_{false};  // whether poll_if_due() has anything to do

  // Taken before mutex_, never by a release: held while CUDA is asked for events.
  std::mutex poll_mutex_;
  std::optional<Fence> fence_;  // recorded, not known to have passed: one at a time
  BlockSet fenced_;             // quarantined, released before fence_ or before it is recorded

  mutable std::mutex mutex_;
  std::condition_variable changed_;  // something that a growth or the thread does, or waits for
  Blocks blocks_;                    // all of them, by address
  std::list<Segment> segments_;
  BlockSet free_;
  BlockSet released_;           // quarantined, not yet in fenced_
  BlockSet in_flight_;          // or quarantined: past their fence, with tickets of their own
  PinnedStats count_;           // all but `largest`
  size_t growing_ = 0;          // allowed, not yet registered
  size_t wanted_ = 0;           // the largest segment that was refused since the last tidy()
  bool shared_growth_ = false;  // a thread is registering a shared segment
  bool stopping_ = false;
  bool thread_runs_ = false;
  std::thread thread_;
};

}  // namespace dlbridge::cuda
