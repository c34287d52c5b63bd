// SPDX-License-Identifier: Apache-2.0
#include "pinned/pool.h"

#include <algorithm>
#include <iterator>

namespace dlbridge::cuda {
namespace {

using pinned::Block;
using pinned::BlockSet;

void put(BlockSet& set, Block* block) noexcept { set.insert(std::move(block->node)); }

Block* take_out(BlockSet& set, BlockSet::iterator at) noexcept {
  BlockSet::node_type node = set.extract(at);
  Block* const block = node.value();
  block->node = std::move(node);
  return block;
}

}  // namespace

// ---- Blocks

void PinnedBlock::Free::operator()(Block* block) const noexcept { block->pool->free(block, {}); }

void PinnedBlock::retire(PooledEvent ticket) && noexcept {
  block_->pool->free(block_.get(), std::move(ticket));
  static_cast<void>(block_.release());
}

Deleter PinnedBlock::into_deleter() && noexcept {
  block_->failures = block_->pool->failures_.load();
  return {block_.release(), PinnedPool::release_result};
}

void PinnedBlock::leak() && noexcept {
  block_->pool->leak(block_.get());
  static_cast<void>(block_.release());
}

PinnedPool::PinnedPool(const CudaApi& api, FenceSource& fences, size_t limit, size_t piece_bytes,
                       Clock::duration idle_age)
    : api_(api), fences_(fences), piece_bytes_(piece_bytes), idle_age_(idle_age) {
  count_.limit = limit;
}

PinnedPool::~PinnedPool() {
  stop({});
  if (thread_.joinable()) thread_.join();
}

// ---- Free blocks

void PinnedPool::move(Block* block, State to) noexcept {
  if (block->state == State::free) block->segment->free -= block->bytes;
  bytes_[static_cast<size_t>(block->state)] -= block->bytes;
  bytes_[static_cast<size_t>(to)] += block->bytes;
  block->state = to;
}

void PinnedPool::make_leaked(Block* block) noexcept {
  for (PooledEvent& ticket : block->tickets) ticket.leak();
  block->tickets.clear();
  move(block, State::leaked);
}

void PinnedPool::make_free(Block* block) noexcept {
  move(block, State::free);
  Segment& segment = *block->segment;
  segment.free += block->bytes;
  if (segment.idle()) segment.idle_since = Clock::now();
  list_free(block);
}

// Puts a free block into its set; null is ignored. Outside of segments of one block no free block
// crosses the border of two pieces, so neither does a block that is cut from it.
void PinnedPool::list_free(Block* block) noexcept {
  while (block != nullptr) {
    Block* rest = nullptr;
    if (block->bytes > piece_bytes_ && !block->segment->whole) {
      const PinnedSegment& memory = block->segment->memory;
      rest = cut(block, memory.bytes_to_seam(static_cast<size_t>(block->data - memory.data())));
    }
    put(block->segment->whole ? whole_ : free_, block);
    block = rest;
  }
}

// A record with a node, and room for one ticket, so that adding it to the pool and retiring it need
// no memory.
auto PinnedPool::new_record() -> Blocks::node_type {
  Blocks one;
  Block& block = one.try_emplace(nullptr).first->second;
  block.pool = this;
  block.tickets.reserve(1);
  BlockSet set;
  set.insert(&block);
  block.node = set.extract(set.begin());
  return one.extract(one.begin());
}

// Leaves `bytes` to a free block that is in no set. Returns the rest, which is in none either; null
// where there is too little of it.
Block* PinnedPool::cut(Block* block, size_t bytes) noexcept {
  if (block->bytes - bytes < pinned::kSmallest) return nullptr;
  try {
    Blocks::node_type record = new_record();
    Block& rest = record.mapped();
    record.key() = rest.data = block->data + bytes;
    rest.segment = block->segment;
    rest.state = State::free;
    rest.bytes = std::exchange(block->bytes, bytes) - bytes;
    return &blocks_.insert(std::move(record)).position->second;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

// An owned block of at least `capacity` from what is free, or null.
Block* PinnedPool::take_free(size_t capacity, bool merges) noexcept {
  Block* block = take_listed(capacity);
  if (block == nullptr && merges) block = merge_run(capacity);
  if (block == nullptr) return nullptr;
  if (!block->segment->whole) list_free(cut(block, capacity));
  move(block, State::owned);
  return block;
}

// The smallest block that is large enough. A segment of one large block serves requests of nearly
// its size only: a small block would keep it from its next use.
Block* PinnedPool::take_listed(size_t capacity) noexcept {
  const auto cuttable = free_.lower_bound(capacity);
  const auto whole = whole_.lower_bound(capacity);
  if (whole != whole_.end() && (*whole)->bytes - capacity <= capacity / 4 &&
      (cuttable == free_.end() || (*whole)->bytes <= (*cuttable)->bytes))
    return take_out(whole_, whole);
  return cuttable == free_.end() ? nullptr : take_out(free_, cuttable);
}

// Merges the first run of free neighbours that is long enough.
Block* PinnedPool::merge_run(size_t capacity) noexcept {
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
      for (auto each = first; each != std::next(next); ++each)
        take_out(free_, free_.find(&each->second));
      blocks_.erase(std::next(first), std::next(next));
      first->second.bytes = run;
      return &first->second;
    }
  }
  return nullptr;
}

// Allows that the smallest free segment of one block that is large enough is cut.
bool PinnedPool::open_whole(size_t capacity) noexcept {
  const auto best = whole_.lower_bound(capacity);
  if (best == whole_.end()) return false;
  Block* const block = take_out(whole_, best);
  block->segment->whole = false;
  list_free(block);
  return true;
}

// ---- Takes and releases

PinnedBlock PinnedPool::take(size_t bytes) {
  const size_t capacity = pinned::capacity_for(bytes);
  {
    const Lock lock(mutex_);
    if (Block* const block = take_free(capacity, false)) [[likely]] {
      ++count_.hits;
      return PinnedBlock(block);
    }
    ++count_.misses;
  }
  return PinnedBlock(take_slowly(capacity));
}

void PinnedPool::free(Block* block, PooledEvent ticket) noexcept {
  if (forked()) return ticket.leak();
  const Lock lock(mutex_);
  try {
    if (ticket) block->tickets.push_back(std::move(ticket));
  } catch (const std::bad_alloc&) {
    ticket.leak();
    return make_leaked(block);
  }
  if (block->tickets.empty()) [[likely]]
    return make_free(block);
  move(block, State::in_flight);
  put(retired_, block);
}

void PinnedPool::release_result(void* context) noexcept {
  auto* const block = static_cast<Block*>(context);
  PinnedPool& pool = *block->pool;
  if (pool.forked()) return;
  const Lock lock(pool.mutex_);
  pool.move(block, State::deferred);
  put(pool.released_, block);
  pool.released_bytes_ += block->bytes;
  if (pool.released_bytes_ >= kWaitingBytes)
    pool.needs_poll_.store(true, std::memory_order_relaxed);
}

void PinnedPool::leak(Block* block) noexcept {
  if (forked()) return;
  const Lock lock(mutex_);
  make_leaked(block);
}

bool PinnedPool::add_ticket(const void* address, PooledEvent event) {
  const Lock lock(mutex_);
  Block* const block = block_at(address);
  if (block == nullptr || block->state != State::owned) return false;
  block->tickets.push_back(std::move(event));
  return true;
}

// ---- Asking

Block* PinnedPool::block_at(const void* address) const noexcept {
  const auto* const at = static_cast<const std::byte*>(address);
  const auto after = blocks_.upper_bound(at);
  if (after == blocks_.begin()) return nullptr;
  const Block& block = std::prev(after)->second;
  return at < block.data + block.bytes ? const_cast<Block*>(&block) : nullptr;
}

bool PinnedPool::holds(const void* address) const noexcept {
  const Lock lock(mutex_);
  const Block* const block = block_at(address);
  return block != nullptr && block->state == State::owned;
}

size_t PinnedPool::bytes_to_seam(const void* address) const noexcept {
  const Lock lock(mutex_);
  const Block* const block = block_at(address);
  if (block == nullptr) return 0;
  const PinnedSegment& memory = block->segment->memory;
  return memory.bytes_to_seam(
      static_cast<size_t>(static_cast<const std::byte*>(address) - memory.data()));
}

PinnedStats PinnedPool::stats() const noexcept {
  const Lock lock(mutex_);
  PinnedStats stats = count_;
  stats.free = bytes_in(State::free);
  stats.owned = bytes_in(State::owned);
  stats.in_flight = bytes_in(State::in_flight);
  stats.quarantined = bytes_in(State::deferred);
  stats.leaked = bytes_in(State::leaked);
  if (allows(pinned::kHuge)) stats.largest = pinned::served_by(count_.limit - used());
  for (const BlockSet* set : {&free_, &whole_}) {
    if (set->empty()) continue;
    stats.largest = std::max(stats.largest, pinned::served_by((*set->rbegin())->bytes));
  }
  return stats;
}

}  // namespace dlbridge::cuda
