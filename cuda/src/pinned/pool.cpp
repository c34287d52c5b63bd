// SPDX-License-Identifier: Apache-2.0
#include "pinned/pool.h"

#include <pthread.h>

#include <iterator>

namespace dlbridge::cuda {
namespace {

using pinned::kClasses;
using pinned::kSmallest;
using pinned::leak_all;

std::atomic<unsigned> g_forks{0};  // counted in the child

unsigned watch_forks() noexcept {
  static const int watching =
      pthread_atfork(nullptr, nullptr, [] { g_forks.fetch_add(1, std::memory_order_relaxed); });
  static_cast<void>(watching);
  return g_forks.load(std::memory_order_relaxed);
}

}  // namespace

FenceSource::~FenceSource() = default;

namespace pinned {

void leak_all(std::span<PooledEvent> events) noexcept {
  for (PooledEvent& event : events) event.leak();
}

void BlockList::push_front(Block* block) noexcept {
  block->previous = nullptr;
  block->next = first_;
  (first_ != nullptr ? first_->previous : last_) = block;
  first_ = block;
}

void BlockList::push_back(Block* block) noexcept {
  block->next = nullptr;
  block->previous = last_;
  (last_ != nullptr ? last_->next : first_) = block;
  last_ = block;
}

Block* BlockList::pop_front() noexcept {
  Block* const block = first_;
  if (block != nullptr) remove(block);
  return block;
}

void BlockList::remove(Block* block) noexcept {
  (block->previous != nullptr ? block->previous->next : first_) = block->next;
  (block->next != nullptr ? block->next->previous : last_) = block->previous;
  block->next = block->previous = nullptr;
}

void BlockList::append(BlockList& other) noexcept {
  if (other.empty()) return;
  other.first_->previous = last_;
  (last_ != nullptr ? last_->next : first_) = other.first_;
  last_ = other.last_;
  other.first_ = other.last_ = nullptr;
}

}  // namespace pinned

// ---- Blocks

void PinnedBlock::Free::operator()(pinned::Block* block) const noexcept {
  if (block->pool != nullptr) block->pool->free(block);
}

void PinnedBlock::retire(std::span<PooledEvent> tickets) noexcept {
  block_->pool->retire(block_.get(), tickets);
  block_.release();
}

Deleter PinnedBlock::into_deleter() && noexcept {
  block_->failures = block_->pool->failures_.load();
  return {block_.release(), PinnedPool::release_result};
}

void PinnedBlock::leak() && noexcept {
  block_->pool->leak(block_.get());
  block_.release();
}

// ---- Fork

PinnedPool::PinnedPool(const CudaApi& api, FenceSource& fences, size_t limit, size_t piece_bytes,
                       Clock::duration idle_age)
    : api_(api),
      fences_(fences),
      piece_bytes_(piece_bytes),
      idle_age_(idle_age),
      fork_generation_(watch_forks()),
      limit_(limit) {}

bool PinnedPool::forked() const noexcept {
  return g_forks.load(std::memory_order_relaxed) != fork_generation_;
}

void PinnedPool::require_no_fork() const {
  if (!forked()) return;
  throw Error(ErrorCode::after_fork, "pinned memory",
              "this process is the child of one that uses CUDA, which does not survive a fork: "
              "start workers with spawn or forkserver");
}

// In a fork's child a lock may be held by a thread that does not exist there, so the block is
// leaked without a lock.
void PinnedPool::leak_after_fork(Block* block) noexcept {
  block->state = State::leaked;
  leaked_after_fork_.fetch_add(block->bytes, std::memory_order_relaxed);
}

// ---- Free blocks

void PinnedPool::move(Block* block, State to) noexcept {
  if (block->state == State::free) block->segment->free -= block->bytes;
  bytes_[static_cast<size_t>(block->state)] -= block->bytes;
  bytes_[static_cast<size_t>(to)] += block->bytes;
  block->state = to;
}

void PinnedPool::make_free(Block* block) noexcept {
  move(block, State::free);
  Segment& segment = *block->segment;
  segment.free += block->bytes;
  if (segment.idle()) segment.idle_since = Clock::now();
  list_free(block);
}

// Puts a free block that stands in no list into one. Outside of segments of one block no free block
// crosses the border of two pieces, so neither does a block that is cut from it.
void PinnedPool::list_free(Block* block) noexcept {
  while (block != nullptr) {
    Block* rest = nullptr;
    if (block->bytes > piece_bytes_ && !block->segment->whole) {
      const PinnedSegment& memory = block->segment->memory;
      rest = cut(block, memory.bytes_to_seam(static_cast<size_t>(block->data - memory.data())));
    }
    free_[pinned::list_of(block->bytes)].push_front(block);
    block = rest;
  }
}

// A record with room for one ticket, so that adding it to the pool and retiring it need no memory.
auto PinnedPool::new_record() -> Blocks::node_type {
  Blocks one;
  Block& block = one.try_emplace(nullptr).first->second;
  block.pool = this;
  block.tickets.reserve(1);
  return one.extract(one.begin());
}

// Leaves `bytes` to a free block that stands in no list. Returns the rest, which stands in none
// either; null where there is too little of it.
pinned::Block* PinnedPool::cut(Block* block, size_t bytes) noexcept {
  if (block->bytes - bytes < kSmallest) return nullptr;
  try {
    std::byte* const data = block->data + bytes;
    Blocks::node_type node = new_record();
    node.key() = data;
    node.mapped().segment = block->segment;
    node.mapped().data = data;
    node.mapped().bytes = std::exchange(block->bytes, bytes) - bytes;
    return &blocks_.insert(std::move(node)).position->second;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

// Makes a free block that stands in no list owned, and cuts it. Null stays null.
pinned::Block* PinnedPool::own(Block* block, size_t capacity) noexcept {
  if (block == nullptr) return nullptr;
  if (!block->segment->whole) list_free(cut(block, capacity));
  move(block, State::owned);
  return block;
}

// An owned block of at least `capacity` from what is free, or null.
pinned::Block* PinnedPool::take_free(size_t capacity) noexcept {
  Block* const block = take_listed(capacity);
  return own(block != nullptr ? block : merge_run(capacity), capacity);
}

// The smallest list that has a block serves. A segment of one large block serves requests of nearly
// its size only: a small block would keep it from its next use.
pinned::Block* PinnedPool::take_listed(size_t capacity) noexcept {
  for (size_t i = pinned::list_of(capacity); i < kClasses; ++i) {
    if (!free_[i].empty()) return free_[i].pop_front();
  }
  Block* best = nullptr;
  for (Block* block = free_[kClasses].first(); block != nullptr; block = block->next) {
    if (block->bytes < capacity || (best != nullptr && best->bytes <= block->bytes)) continue;
    if (!block->segment->whole || block->bytes - capacity <= capacity / 4) best = block;
  }
  if (best != nullptr) free_[kClasses].remove(best);
  return best;
}

// Merges the first run of free neighbours that is long enough.
pinned::Block* PinnedPool::merge_run(size_t capacity) noexcept {
  for (const Segment& segment : segments_) {
    if (segment.whole || segment.free < capacity) continue;
    auto first = blocks_.find(segment.memory.data());
    size_t run = 0;
    for (auto next = first; next != blocks_.end() && next->second.segment == &segment; ++next) {
      const Block& block = next->second;
      const auto offset = static_cast<size_t>(block.data - segment.memory.data());
      if (block.state != State::free || (offset % piece_bytes_ == 0 && capacity <= piece_bytes_))
        run = 0;
      if (block.state != State::free) continue;
      if (run == 0) first = next;
      run += block.bytes;
      if (run < capacity) continue;
      const auto end = std::next(next);
      for (auto each = first; each != end; ++each)
        free_[pinned::list_of(each->second.bytes)].remove(&each->second);
      first->second.bytes = run;
      blocks_.erase(std::next(first), end);
      return &first->second;
    }
  }
  return nullptr;
}

// Allows that the smallest free segment of one block that is large enough is cut.
bool PinnedPool::open_whole(size_t capacity) noexcept {
  Block* best = nullptr;
  for (Block* block = free_[kClasses].first(); block != nullptr; block = block->next) {
    if (!block->segment->whole || block->bytes < capacity) continue;
    if (best == nullptr || block->bytes < best->bytes) best = block;
  }
  if (best == nullptr) return false;
  free_[kClasses].remove(best);
  best->segment->whole = false;
  list_free(best);
  return true;
}

// ---- Takes and releases

PinnedBlock PinnedPool::take(size_t bytes) {
  require_no_fork();
  const size_t capacity = pinned::capacity_for(bytes);
  {
    const Lock lock(mutex_);
    if (Block* const block = own(take_listed(capacity), capacity)) [[likely]] {
      ++hits_;
      return {block, bytes};
    }
    ++misses_;
  }
  return take_slowly(bytes, capacity);
}

void PinnedPool::free(Block* block) noexcept {
  if (forked()) return leak_after_fork(block);
  const Lock lock(mutex_);
  if (block->tickets.empty()) [[likely]]
    return make_free(block);
  move(block, State::in_flight);
  retired_.push_back(block);
}

void PinnedPool::retire(Block* block, std::span<PooledEvent> tickets) noexcept {
  if (forked()) {
    leak_all(tickets);
    return leak_after_fork(block);
  }
  try {
    const Lock lock(mutex_);  // add_ticket() may add one meanwhile
    block->tickets.reserve(block->tickets.size() + tickets.size());
    for (PooledEvent& ticket : tickets) {
      if (ticket) block->tickets.push_back(std::move(ticket));
    }
  } catch (const std::bad_alloc&) {
    leak_all(tickets);
    return leak(block);
  }
  free(block);
}

void PinnedPool::release_result(void* context) noexcept {
  auto* const block = static_cast<Block*>(context);
  if (block->pool != nullptr) block->pool->defer_free(block);
}

void PinnedPool::defer_free(Block* block) noexcept {
  if (forked()) return leak_after_fork(block);
  const Lock lock(mutex_);
  move(block, State::deferred);
  released_.push_back(block);
  released_bytes_ += block->bytes;
  if (released_bytes_ >= kWaitingBytes) needs_poll_.store(true, std::memory_order_relaxed);
}

void PinnedPool::leak(Block* block) noexcept {
  if (forked()) return leak_after_fork(block);
  const Lock lock(mutex_);
  leak_all(block->tickets);
  block->tickets.clear();
  move(block, State::leaked);
}

bool PinnedPool::add_ticket(const void* address, PooledEvent event) {
  if (forked()) {
    event.leak();
    return false;
  }
  const Lock lock(mutex_);
  Block* const block = block_at(address);
  if (block == nullptr || block->state != State::owned) return false;
  block->tickets.push_back(std::move(event));
  return true;
}

// ---- Asking

pinned::Block* PinnedPool::block_at(const void* address) const noexcept {
  const auto* const at = static_cast<const std::byte*>(address);
  const auto after = blocks_.upper_bound(at);
  if (after == blocks_.begin()) return nullptr;
  const Block& block = std::prev(after)->second;
  return at < block.data + block.bytes ? const_cast<Block*>(&block) : nullptr;
}

bool PinnedPool::holds(const void* address) const noexcept {
  if (forked()) return false;
  const Lock lock(mutex_);
  const Block* const block = block_at(address);
  return block != nullptr && block->state == State::owned;
}

size_t PinnedPool::bytes_to_seam(const void* address) const noexcept {
  if (forked()) return 0;
  const Lock lock(mutex_);
  const Block* const block = block_at(address);
  if (block == nullptr) return 0;
  const PinnedSegment& memory = block->segment->memory;
  return memory.bytes_to_seam(
      static_cast<size_t>(static_cast<const std::byte*>(address) - memory.data()));
}

PinnedStats PinnedPool::stats() const noexcept {
  // In a fork's child the lock may be held by a thread that does not exist there.
  Lock lock(mutex_, std::defer_lock);
  if (!forked()) lock.lock();
  const size_t leaked = leaked_after_fork_.load(std::memory_order_relaxed);
  PinnedStats stats;
  stats.registered = registered_;
  stats.limit = limit_;
  stats.free = bytes_in(State::free);
  stats.owned = bytes_in(State::owned) - leaked;
  stats.in_flight = bytes_in(State::in_flight);
  stats.quarantined = bytes_in(State::deferred);
  stats.leaked = bytes_in(State::leaked) + leaked;
  stats.hits = hits_;
  stats.misses = misses_;
  stats.grows = grows_;
  stats.refused = refused_;
  stats.register_failed = register_failed_;
  return stats;
}

}  // namespace dlbridge::cuda
