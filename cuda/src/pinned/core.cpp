// SPDX-License-Identifier: Apache-2.0
// Takes and releases; the threads' caches.
#include "pinned/core.h"

#include <pthread.h>

#include <algorithm>
#include <thread>
#include <utility>

namespace dlbridge::cuda::pinned {
namespace {

// The size of a growth beyond which waiting for a block instead grows no longer.
constexpr size_t kLongestWait = size_t{1} << 30;

std::atomic<uint64_t> g_next_id{1};
std::atomic<unsigned> g_forks{0};  // counted in the child

unsigned watch_forks() noexcept {
  static const int watching =
      pthread_atfork(nullptr, nullptr, [] { g_forks.fetch_add(1, std::memory_order_relaxed); });
  static_cast<void>(watching);
  return g_forks.load(std::memory_order_relaxed);
}

// How many blocks of a class move between a thread and the pool at a time; it keeps twice as many.
uint32_t batch_of(size_t block_bytes) noexcept {
  return static_cast<uint32_t>(std::clamp<size_t>((size_t{32} << 10) / block_bytes, 1, 16));
}

// The cache that this thread used last. What remains after the thread's caches are gone (releases
// by destructors that run later) does without.
constinit thread_local ThreadCache* t_last = nullptr;
constinit thread_local bool t_ended = false;

struct ThreadCaches {
  struct Entry {
    std::weak_ptr<Core> core;
    std::shared_ptr<ThreadCache> cache;
  };
  std::vector<Entry> entries;

  ~ThreadCaches() {
    t_last = nullptr;
    t_ended = true;
    for (const Entry& entry : entries) {
      if (const auto core = entry.core.lock()) core->drop(*entry.cache);
    }
  }
};
thread_local ThreadCaches t_caches;

}  // namespace

Core::Core(const CudaApi& api, FenceSource& fences, size_t limit, size_t piece_bytes)
    : api_(api),
      fences_(fences),
      piece_bytes_(piece_bytes),
      id_(g_next_id.fetch_add(1)),
      fork_generation_(watch_forks()),
      limit_(limit) {}

bool Core::forked() const noexcept {
  return g_forks.load(std::memory_order_relaxed) != fork_generation_;
}

// In a fork's child a lock may be held by a thread that does not exist there, so the block is
// leaked without a lock.
void Core::leak_after_fork(Block* block) noexcept {
  block->state.store(State::leaked, std::memory_order_relaxed);
  leaked_after_fork_.fetch_add(block->bytes(), std::memory_order_relaxed);
}

void Core::move(Block* block, State to) noexcept {
  const State from = block->state.exchange(to, std::memory_order_relaxed);
  bytes_[static_cast<size_t>(from)] -= static_cast<int64_t>(block->bytes());
  bytes_[static_cast<size_t>(to)] += static_cast<int64_t>(block->bytes());
}

void Core::make_free(Block* block) noexcept {
  move(block, State::free);
  arena_.put(block);
}

// ---- Takes

PinnedBlock Core::take(size_t bytes) {
  if (bytes <= kLargestCached) [[likely]] {
    if (Block* const block = take_cached(class_of(bytes))) [[likely]]
      return {block, block->data, bytes};
  }
  return take_slowly(bytes);
}

Block* Core::take_cached(int size_class) noexcept {
  ThreadCache* const cache = t_last;
  if (cache == nullptr || cache->core_id != id_ || forked()) return nullptr;
  const std::lock_guard lock(cache->mutex);
  ThreadCache::Bin& bin = cache->bins[static_cast<size_t>(size_class)];
  Block* const block = bin.first;
  if (block == nullptr) return nullptr;
  bin.first = block->next;
  --bin.count;
  block->state.store(State::owned, std::memory_order_relaxed);
  cache->owned_bytes += static_cast<int64_t>(class_bytes(size_class));
  ++cache->hits;
  return block;
}

PinnedBlock Core::take_slowly(size_t bytes) {
  if (forked()) {
    throw Error(ErrorCode::after_fork, "pinned memory",
                "this process is the child of one that uses CUDA, which does not survive a fork: "
                "start workers with spawn or forkserver");
  }
  Want want{bytes, -1, 0};
  if (bytes <= kLargestClassed) {
    want.size_class = class_of(bytes);
    want.capacity = class_bytes(want.size_class);
  } else {
    want.capacity = bytes <= SIZE_MAX - kHuge ? large_bytes(bytes) : SIZE_MAX;
  }
  ThreadCache* const cache = bytes <= kLargestCached ? cache_of_thread() : nullptr;

  PinnedBlock ready;
  bool fence = false;
  {
    const Lock lock(mutex_);
    ready = take_ready_locked(want, cache);
    ++(ready ? hits_ : misses_);
    fence = waiting_bytes_ >= kWaitingBytes;
  }
  if (ready && !fence) return ready;
  poll(kPolledFirst);
  if (ready) return ready;
  if (PinnedBlock block = take_ready(want, cache)) return block;
  if (PinnedBlock block = take_carved(want, cache, false)) return block;
  poll();
  if (PinnedBlock block = take_ready(want, cache)) return block;
  if (PinnedBlock block = take_carved(want, cache, true)) return block;
  if (PinnedBlock block = take_awaited(want, cache)) return block;
  return grow(want, cache);
}

PinnedBlock Core::take_ready(const Want& want, ThreadCache* cache) {
  const Lock lock(mutex_);
  return take_ready_locked(want, cache);
}

PinnedBlock Core::take_ready_locked(const Want& want, ThreadCache* cache) noexcept {
  Block* const block =
      want.size_class < 0 ? arena_.take_large(want.capacity) : arena_.take(want.size_class);
  if (block == nullptr) return {};
  move(block, State::owned);
  if (cache != nullptr) refill(*cache, want.size_class);
  return {block, block->data, want.bytes};
}

PinnedBlock Core::take_carved(const Want& want, ThreadCache* cache, bool dissolve) {
  if (want.size_class < 0) return {};
  std::unique_ptr<Span> span = make_span(*this, want.size_class, want.capacity);
  const Lock lock(mutex_);
  if (!arena_.place(span, dissolve)) return {};
  return take_ready_locked(want, cache);
}

// A fence that was taken a moment ago passes within microseconds when the device is idle, and
// adding memory takes far longer: about 0.1 ns a byte, a tenth of which is worth waiting.
PinnedBlock Core::take_awaited(const Want& want, ThreadCache* cache) {
  const auto deadline = Clock::now() + std::chrono::microseconds(50) +
                        std::chrono::nanoseconds(std::min(want.capacity, kLongestWait) / 100);
  for (;;) {
    {
      const Lock lock(mutex_);
      if (!pending_serves(want)) return {};
    }
    std::this_thread::yield();
    poll();
    if (PinnedBlock block = take_ready(want, cache)) return block;
    if (Clock::now() >= deadline) return {};
  }
}

// ---- Releases

void Core::free(Block* block) noexcept {
  if (forked()) return leak_after_fork(block);
  if (block->ticketed.load(std::memory_order_relaxed)) [[unlikely]]
    return retire(block, {});
  if (free_cached(block)) [[likely]]
    return;
  Lock lock(mutex_);
  if (closed_) return orphan(std::move(lock), block);
  make_free(block);
}

bool Core::free_cached(Block* block) noexcept {
  const int size_class = block->span->size_class;
  if (size_class < 0 || size_class >= kCachedClasses) return false;
  ThreadCache* const cache = cache_of_thread();
  if (cache == nullptr) return false;
  const uint32_t batch = batch_of(block->bytes());
  ThreadCache::Bin& bin = cache->bins[static_cast<size_t>(size_class)];
  {
    const std::lock_guard lock(cache->mutex);
    if (cache->closed) return false;
    if (bin.count < 2 * batch) {
      block->state.store(State::free, std::memory_order_relaxed);
      block->next = bin.first;
      bin.first = block;
      ++bin.count;
      cache->owned_bytes -= static_cast<int64_t>(block->bytes());
      return true;
    }
  }
  const Lock lock(mutex_);
  const std::lock_guard cache_lock(cache->mutex);
  empty_bin(bin, batch);
  return false;
}

void Core::retire(Block* block, std::span<PooledEvent> tickets) noexcept {
  if (forked()) {
    for (PooledEvent& ticket : tickets) ticket.leak();
    return leak_after_fork(block);
  }
  Lock lock(mutex_);
  try {
    for (PooledEvent& ticket : tickets) {
      if (ticket) block->tickets.push_back(std::move(ticket));
    }
  } catch (const std::bad_alloc&) {
    if (!closed_) return leak_locked(block);
    block->span->segment->memory.abandon();
  }
  if (closed_) return orphan(std::move(lock), block);
  if (block->tickets.empty()) return make_free(block);
  move(block, State::in_flight);
  pending_.push_back(block);
}

void Core::defer_free(Block* block) noexcept {
  if (forked()) return leak_after_fork(block);
  Lock lock(mutex_);
  if (closed_) return orphan(std::move(lock), block);
  move(block, State::deferred);
  waiting_.push_back(block);
  waiting_bytes_ += block->bytes();
  if (waiting_bytes_ >= kWaitingBytes) needs_care_.store(true, std::memory_order_relaxed);
}

void Core::leak(Block* block) noexcept {
  if (forked()) return leak_after_fork(block);
  Lock lock(mutex_);
  if (!closed_) return leak_locked(block);
  block->span->segment->memory.abandon();
  orphan(std::move(lock), block);
}

void Core::leak_locked(Block* block) noexcept {
  for (PooledEvent& ticket : block->tickets) ticket.leak();
  block->tickets.clear();
  move(block, State::leaked);
}

bool Core::add_ticket(const void* address, PooledEvent event) {
  if (forked()) {
    event.leak();
    return false;
  }
  const Lock lock(mutex_);
  Block* const block = arena_.find(address);
  if (block == nullptr || block->state.load(std::memory_order_relaxed) != State::owned)
    return false;
  block->tickets.push_back(std::move(event));
  block->ticketed.store(true, std::memory_order_relaxed);
  return true;
}

// ---- Asking

bool Core::holds(const void* address) const noexcept {
  if (forked()) return false;
  const Lock lock(mutex_);
  const Block* const block = arena_.find(address);
  return block != nullptr && block->state.load(std::memory_order_relaxed) == State::owned;
}

size_t Core::bytes_to_seam(const void* address) const noexcept {
  if (forked()) return 0;
  const Lock lock(mutex_);
  const Segment* const segment = arena_.segment_of(address);
  if (segment == nullptr) return 0;
  return segment->memory.bytes_to_seam(
      static_cast<size_t>(static_cast<const std::byte*>(address) - segment->memory.data()));
}

PinnedStats Core::stats() const noexcept {
  // In a fork's child the locks may be held by threads that do not exist there: nothing is locked.
  const bool alone = forked();
  Lock lock(mutex_, std::defer_lock);
  if (!alone) {
    lock.lock();
    for (const auto& cache : caches_) cache->mutex.lock();
  }
  PinnedStats stats;
  const auto bytes = [this](State state) { return bytes_[static_cast<size_t>(state)]; };
  int64_t owned_by_threads = 0;
  stats.hits = hits_;
  for (const auto& cache : caches_) {
    owned_by_threads += cache->owned_bytes;
    stats.hits += cache->hits;
  }
  const size_t leaked = leaked_after_fork_.load(std::memory_order_relaxed);
  stats.registered = registered_;
  stats.limit = limit_;
  stats.free = static_cast<size_t>(bytes(State::free) - owned_by_threads);
  stats.owned = static_cast<size_t>(bytes(State::owned) + owned_by_threads) - leaked;
  stats.in_flight = static_cast<size_t>(bytes(State::in_flight));
  stats.quarantined = static_cast<size_t>(bytes(State::deferred));
  stats.leaked = static_cast<size_t>(bytes(State::leaked)) + leaked;
  stats.misses = misses_;
  stats.grows = grows_;
  stats.refused = refused_;
  if (!alone) {
    for (const auto& cache : caches_) cache->mutex.unlock();
  }
  return stats;
}

// ---- The threads' caches

ThreadCache* Core::cache_of_thread() noexcept {
  if (t_last != nullptr && t_last->core_id == id_) [[likely]]
    return t_last;
  if (t_ended) return nullptr;
  std::vector<ThreadCaches::Entry>& entries = t_caches.entries;
  for (const auto& entry : entries) {
    if (entry.cache->core_id == id_) return t_last = entry.cache.get();
  }
  try {
    auto cache = std::make_shared<ThreadCache>(id_);
    std::erase_if(entries, [](const auto& entry) { return entry.core.expired(); });
    entries.push_back({weak_from_this(), cache});
    t_last = cache.get();  // an erased one may have been the last
    const Lock lock(mutex_);
    cache->closed = closed_;
    if (!closed_) caches_.push_back(cache);
    return t_last;
  } catch (const std::bad_alloc&) {
    if (!entries.empty() && entries.back().cache->core_id == id_) entries.pop_back();
    t_last = nullptr;
    return nullptr;
  }
}

void Core::refill(ThreadCache& cache, int size_class) noexcept {
  const std::lock_guard lock(cache.mutex);
  ThreadCache::Bin& bin = cache.bins[static_cast<size_t>(size_class)];
  for (uint32_t left = batch_of(class_bytes(size_class)); left > 0; --left) {
    Block* const block = arena_.take(size_class);
    if (block == nullptr) return;
    block->next = bin.first;
    bin.first = block;
    ++bin.count;
  }
}

// Requires: both locks.
void Core::empty_bin(ThreadCache::Bin& bin, uint32_t most) noexcept {
  for (; most > 0 && bin.first != nullptr; --most) {
    Block* const block = bin.first;
    bin.first = block->next;
    --bin.count;
    arena_.put(block);
  }
}

// Requires: both locks.
void Core::empty(ThreadCache& cache) noexcept {
  for (ThreadCache::Bin& bin : cache.bins) empty_bin(bin, bin.count);
}

// Requires: both locks.
void Core::fold(ThreadCache& cache) noexcept {
  bytes_[static_cast<size_t>(State::owned)] += cache.owned_bytes;
  bytes_[static_cast<size_t>(State::free)] -= cache.owned_bytes;
  hits_ += cache.hits;
  cache.owned_bytes = 0;
  cache.hits = 0;
}

void Core::empty_caches() noexcept {
  for (const auto& cache : caches_) {
    const std::lock_guard lock(cache->mutex);
    empty(*cache);
  }
}

void Core::drop(ThreadCache& cache) noexcept {
  if (forked()) return;
  const Lock lock(mutex_);
  if (closed_) return;
  const std::lock_guard cache_lock(cache.mutex);
  empty(cache);
  fold(cache);
  std::erase_if(caches_, [&](const auto& entry) { return entry.get() == &cache; });
}

}  // namespace dlbridge::cuda::pinned
