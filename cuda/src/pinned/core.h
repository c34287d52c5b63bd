// SPDX-License-Identifier: Apache-2.0
// Core: the implementation of PinnedPool, and of blocks that outlive the pool.
//
// One lock guards everything but the threads' own caches, which have a lock each. Order: the core's
// lock first. Neither is held while CUDA is called, memory mapped, or a fence asked for.
// Lives until the pool and all blocks are gone.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "pinned/arena.h"
#include "pinned/pool.h"

namespace dlbridge::cuda::pinned {

/// The small free blocks that one thread keeps, so that it need not share a lock to use them again.
struct ThreadCache {
  struct Bin {
    Block* first = nullptr;
    uint32_t count = 0;
  };

  explicit ThreadCache(uint64_t id) noexcept : core_id(id) {}

  const uint64_t core_id;
  std::mutex mutex;  // mostly taken by its own thread; others take it to trim
  bool closed = false;
  int64_t owned_bytes = 0;  // what this thread moved from free to owned, less the other way
  uint64_t hits = 0;
  std::array<Bin, static_cast<size_t>(kCachedClasses)> bins{};
};

class Core : public std::enable_shared_from_this<Core> {
 public:
  Core(const CudaApi& api, FenceSource& fences, size_t limit, size_t piece_bytes);

  PinnedBlock take(size_t bytes);
  void free(Block* block) noexcept;
  void give_out(Block* block) noexcept { block->failures = failures_.load(); }
  void retire(Block* block, std::span<PooledEvent> tickets) noexcept;
  void defer_free(Block* block) noexcept;
  void leak(Block* block) noexcept;

  bool add_ticket(const void* address, PooledEvent event);
  bool holds(const void* address) const noexcept;
  size_t bytes_to_seam(const void* address) const noexcept;

  /// Fences what waits for a fence; polls all batches and the tickets of `most` blocks.
  void poll(size_t most = SIZE_MAX);
  void poll_if_due() noexcept;
  void device_fails() noexcept { ++failures_; }
  size_t trim(size_t keep_bytes);
  void set_limit(size_t limit);
  PinnedStats stats() const noexcept;

  /// The pool's end.
  void close() noexcept;
  /// The end of a thread that has `cache`.
  void drop(ThreadCache& cache) noexcept;

 private:
  using Lock = std::unique_lock<std::mutex>;
  using Clock = std::chrono::steady_clock;

  // From this many deferred bytes on poll_if_due() records a fence, so that it has passed when the
  // blocks are needed.
  static constexpr size_t kWaitingBytes = size_t{1} << 20;
  // Tickets polled by a take that finds no free block, before it looks elsewhere.
  static constexpr size_t kPolledFirst = 64;

  /// What a take asks for.
  struct Want {
    size_t bytes;     // as asked
    int size_class;   // -1: large
    size_t capacity;  // of the block
  };
  /// Blocks that were released before one fence.
  struct Batch {
    Fence fence;
    BlockList blocks;
  };
  /// Budget that a growing take has reserved; ends the reservation.
  class Growth;

  // core.cpp: takes and releases
  Block* take_cached(int size_class) noexcept;
  PinnedBlock take_slowly(size_t bytes);
  PinnedBlock take_ready(const Want& want, ThreadCache* cache);
  PinnedBlock take_ready_locked(const Want& want, ThreadCache* cache) noexcept;
  PinnedBlock take_carved(const Want& want, ThreadCache* cache, bool dissolve);
  PinnedBlock take_awaited(const Want& want, ThreadCache* cache);
  bool free_cached(Block* block) noexcept;
  void leak_locked(Block* block) noexcept;
  void move(Block* block, State to) noexcept;
  void make_free(Block* block) noexcept;
  bool forked() const noexcept;
  void leak_after_fork(Block* block) noexcept;
  ThreadCache* cache_of_thread() noexcept;
  void refill(ThreadCache& cache, int size_class) noexcept;
  void empty_bin(ThreadCache::Bin& bin, uint32_t most) noexcept;
  void empty(ThreadCache& cache) noexcept;
  void empty_caches() noexcept;
  void shut_caches() noexcept;
  void fold(ThreadCache& cache) noexcept;

  // growth.cpp: segments and the budget
  enum class Room { granted, retry, refused };
  PinnedBlock grow(const Want& want, ThreadCache* cache);
  Room make_room(const Want& want, Growth& growth, bool& emptied_caches);
  PinnedBlock register_segment(const Want& want, Growth& growth, ThreadCache* cache);
  void count_leaked(size_t bytes) noexcept;
  size_t give_back(Lock& lock, Arena::Segments idle) noexcept;

  // poll.cpp: tickets, fences, the end
  int poll_events(std::vector<PooledEvent>& events) noexcept;
  void set_apart(BlockList& blocks, BlockList& leaked) const noexcept;
  bool pending_serves(const Want& want) const noexcept;
  void fence_held(Clock::time_point deadline) noexcept;
  void sort_out(bool fenced_held, Arena::Segments& gone) noexcept;
  void orphan(Lock lock, Block* block) noexcept;

  const CudaApi& api_;
  FenceSource& fences_;
  const size_t piece_bytes_;
  const uint64_t id_;
  const unsigned fork_generation_;
  std::atomic<size_t> leaked_after_fork_{0};
  std::atomic<unsigned> failures_{0};    // of devices
  std::atomic<bool> needs_care_{false};  // whether poll_if_due() has anything to do

  mutable std::mutex mutex_;
  std::condition_variable changed_;  // a growth or a giving back has ended
  Arena arena_;
  std::vector<std::shared_ptr<ThreadCache>> caches_;
  BlockList waiting_;  // deferred, no fence taken yet
  size_t waiting_bytes_ = 0;
  std::list<Batch> batches_;              // deferred, behind a fence
  BlockList pending_;                     // in flight, or deferred with tickets of their own
  std::array<int64_t, kStates> bytes_{};  // less what the threads' caches have moved
  size_t registered_ = 0;
  size_t growing_ = 0;    // reserved, not yet registered
  size_t shrinking_ = 0;  // taken out, not yet unregistered
  size_t limit_;
  bool shared_growth_ = false;  // a thread is registering a shared segment
  bool closed_ = false;
  uint64_t hits_ = 0;
  uint64_t misses_ = 0;
  uint64_t grows_ = 0;
  uint64_t refused_ = 0;
  std::shared_ptr<Core> self_;  // after the end: keeps this alive while blocks are held
};

}  // namespace dlbridge::cuda::pinned
