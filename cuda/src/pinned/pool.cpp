// SPDX-License-Identifier: Apache-2.0
#include "pinned/pool.h"

#include <algorithm>
#include <iterator>

#include "runtime/cuda_error.h"
#include "runtime/guards.h"

namespace dlbridge::cuda {
namespace {

using pinned::Block;
using pinned::BlockSet;

// From this many quarantined bytes on poll_if_due() records a fence, so that it has passed when the
// blocks are needed.
constexpr size_t kWaitingBytes = size_t{1} << 20;
// From this many, or a quarter of the limit, on a fence is urgent.
constexpr size_t kUrgentBytes = size_t{64} << 20;

// Whether a block of `bytes` may serve a request of `capacity` without being cut.
bool is_close(size_t bytes, size_t capacity) noexcept { return bytes - capacity <= capacity / 4; }

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
  Block* const block = block_.release();
  block->pool->free(block, std::move(ticket));
}

Deleter PinnedBlock::into_deleter() && noexcept {
  block_->failures = block_->pool->failures_.load();
  return {block_.release(), PinnedPool::release_result};
}

void PinnedBlock::leak() && noexcept {
  Block* const block = block_.release();
  PinnedPool& pool = *block->pool;
  if (pool.forked()) return;
  const PinnedPool::Lock lock(pool.mutex_);
  pool.make_leaked(block);
}

PinnedPool::PinnedPool(const CudaApi& api, FenceSource fences, size_t limit, size_t piece_bytes,
                       Clock::duration idle_age)
    : api_(api), fences_(std::move(fences)), piece_bytes_(piece_bytes), idle_age_(idle_age) {
  count_.limit = limit;
  if (idle_age == Clock::duration::zero()) return;
  try {
    thread_ = start_thread([this] { run_thread(); });
    thread_runs_ = true;
  } catch (const std::exception&) {
    // Idle memory stays registered.
  }
}

PinnedPool::~PinnedPool() { stop(); }

// ---- Free blocks

void PinnedPool::move(Block* block, pinned::State to) noexcept {
  if (block->state == &PinnedStats::free) block->segment->free -= block->bytes;
  count_.*block->state -= block->bytes;
  count_.*to += block->bytes;
  block->state = to;
}

void PinnedPool::make_leaked(Block* block) noexcept {
  for (PooledEvent& ticket : block->tickets) ticket.leak();
  block->tickets.clear();
  move(block, &PinnedStats::leaked);
}

void PinnedPool::make_free(Block* block) noexcept {
  move(block, &PinnedStats::free);
  Segment& segment = *block->segment;
  segment.free += block->bytes;
  if (segment.idle()) segment.idle_since = Clock::now();
  list_free(block);
}

// Puts a free block into the set; null is ignored. Unless it is whole it crosses no border of two
// pieces, so neither does a block that is cut from it.
void PinnedPool::list_free(Block* block) noexcept {
  while (block != nullptr) {
    Block* rest = nullptr;
    if (block->bytes > piece_bytes_ && !block->is_whole()) {
      const PinnedSegment& memory = block->segment->memory;
      rest = cut(block, memory.bytes_to_seam(static_cast<size_t>(block->data - memory.data())));
    }
    put(free_, block);
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
    rest.state = &PinnedStats::free;
    rest.bytes = std::exchange(block->bytes, bytes) - bytes;
    return &blocks_.insert(std::move(record)).position->second;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

// Makes a free block, which is not in the set, an owned one of `capacity`.
Block* PinnedPool::own(Block* block, size_t capacity) noexcept {
  if (!block->is_whole() || !is_close(block->bytes, capacity)) list_free(cut(block, capacity));
  move(block, &PinnedStats::owned);
  return block;
}

// An owned block from the smallest free one that is large enough, or null. A whole one serves
// requests of nearly its size only, unless `cuts_whole`: a small block would keep it from its next
// use.
Block* PinnedPool::take_listed(size_t capacity, bool cuts_whole) noexcept {
  auto best = free_.lower_bound(capacity);
  while (best != free_.end() && (*best)->is_whole() && !cuts_whole &&
         !is_close((*best)->bytes, capacity))
    ++best;
  return best == free_.end() ? nullptr : own(take_out(free_, best), capacity);
}

// An owned block from the first run of free neighbours that is long enough, or null.
Block* PinnedPool::take_merged(size_t capacity) noexcept {
  for (const Segment& segment : segments_) {
    if (segment.free < capacity) continue;
    auto first = blocks_.find(segment.memory.data());
    if (first->second.is_whole()) continue;
    size_t run = 0;
    for (auto next = first; next != blocks_.end() && next->second.segment == &segment; ++next) {
      const Block& block = next->second;
      const auto offset = static_cast<size_t>(block.data - segment.memory.data());
      if (block.state != &PinnedStats::free ||
          (offset % piece_bytes_ == 0 && capacity <= piece_bytes_))
        run = 0;
      if (block.state != &PinnedStats::free) continue;
      if (run == 0) first = next;
      run += block.bytes;
      if (run < capacity) continue;
      for (auto each = first; each != std::next(next); ++each)
        take_out(free_, free_.find(&each->second));
      blocks_.erase(std::next(first), std::next(next));
      first->second.bytes = run;
      return own(&first->second, capacity);
    }
  }
  return nullptr;
}

// ---- Takes and releases

PinnedBlock PinnedPool::take(size_t bytes) {
  const size_t capacity = pinned::capacity_for(bytes);
  {
    const Lock lock(mutex_);
    if (Block* const block = take_listed(capacity, false)) [[likely]] {
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
  move(block, &PinnedStats::in_flight);
  put(in_flight_, block);
}

void PinnedPool::release_result(void* context) noexcept {
  auto* const block = static_cast<Block*>(context);
  PinnedPool& pool = *block->pool;
  if (pool.forked()) return;
  const Lock lock(pool.mutex_);
  pool.move(block, &PinnedStats::quarantined);
  put(pool.released_, block);
  if (pool.count_.quarantined >= kWaitingBytes)
    pool.needs_poll_.store(true, std::memory_order_relaxed);
}

bool PinnedPool::add_ticket(const void* address, PooledEvent event) {
  const Lock lock(mutex_);
  Block* const block = block_at(address);
  if (block == nullptr || block->state != &PinnedStats::owned) return false;
  block->tickets.push_back(std::move(event));
  return true;
}

// ---- Tickets and fences

// 1: all have passed; 0: not yet; -1: a device failed. Those that passed are taken out.
int PinnedPool::poll_events(std::vector<PooledEvent>& events) noexcept {
  bool failed = false;
  std::erase_if(events, [&](const PooledEvent& event) {
    const CUresult answer = failed ? CUDA_ERROR_NOT_READY : api_.event_query(event.get());
    failed |= answer != CUDA_SUCCESS && answer != CUDA_ERROR_NOT_READY;
    return answer == CUDA_SUCCESS;
  });
  if (!failed) return events.empty() ? 1 : 0;
  for (PooledEvent& event : events) event.leak();
  events.clear();
  return -1;
}

void PinnedPool::poll_locked(bool may_be_urgent, bool tickets_too) noexcept {
  Lock lock(mutex_);
  if (released_.empty() && fenced_.empty() && (in_flight_.empty() || !tickets_too)) return;
  const CUcontext context = segments_.back().memory.context();
  lock.unlock();
  const CallGuard guard(api_, context, std::nothrow);
  if (!guard.entered()) return;

  BlockSet waiting;  // for their tickets
  BlockSet failed;
  const auto poll_fence = [&] {
    const int state = fence_ ? poll_events(*fence_) : 0;
    if (state == 0) return;
    (state > 0 ? waiting : failed).merge(fenced_);
    fence_.reset();
  };
  poll_fence();
  BlockSet released;
  BlockSet retired;
  lock.lock();
  if (!fence_) released.swap(released_);
  if (tickets_too) retired.swap(in_flight_);
  const bool much = count_.quarantined >= std::min(kUrgentBytes, count_.limit / 4);
  const bool urgent = stopping_ || (may_be_urgent && much);
  lock.unlock();
  waiting.merge(retired);
  fenced_.merge(released);
  if (!fence_ && !fenced_.empty()) {
    try {
      fence_ = fences_(urgent);
    } catch (const std::exception&) {
      // The next poll tries again.
    }
    // Of a device that failed the fence says nothing. Read after it: a failure is counted before
    // fences leave the device out.
    const unsigned failures = failures_.load();
    for (auto next = fenced_.begin(); next != fenced_.end();) {
      const auto block = next++;
      if ((*block)->failures != failures) failed.insert(fenced_.extract(block));
    }
    poll_fence();
  }
  BlockSet passed;
  for (auto next = waiting.begin(); next != waiting.end();) {
    const auto block = next++;
    const int state = poll_events((*block)->tickets);
    if (state != 0) (state > 0 ? passed : failed).insert(waiting.extract(block));
  }

  lock.lock();
  while (!passed.empty()) make_free(take_out(passed, passed.begin()));
  while (!failed.empty()) make_leaked(take_out(failed, failed.begin()));
  in_flight_.merge(waiting);
  needs_poll_.store(fence_ || count_.quarantined >= kWaitingBytes, std::memory_order_relaxed);
}

void PinnedPool::poll(bool may_be_urgent) noexcept {
  const std::lock_guard polling(poll_mutex_);
  poll_locked(may_be_urgent, true);
}

void PinnedPool::poll_if_due() noexcept {
  if (!needs_poll_.load(std::memory_order_relaxed)) return;
  const std::unique_lock polling(poll_mutex_, std::try_to_lock);
  if (polling) poll_locked(true, false);
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
  return block != nullptr && block->state == &PinnedStats::owned;
}

size_t PinnedPool::bytes_to_seam(const void* address) const noexcept {
  const Lock lock(mutex_);
  const Block* const block = block_at(address);
  if (block == nullptr) return 0;
  const PinnedSegment& memory = block->segment->memory;
  return memory.bytes_to_seam(
      static_cast<size_t>(static_cast<const std::byte*>(address) - memory.data()));
}

size_t PinnedPool::largest() const noexcept {
  const size_t free = free_.empty() ? 0 : (*free_.rbegin())->bytes;
  const size_t most = std::max(free, allows(pinned::kHuge) ? count_.limit - used() : 0);
  return most == 0 ? 0 : pinned::served_by(most);
}

PinnedStats PinnedPool::stats() const noexcept {
  const Lock lock(mutex_);
  PinnedStats stats = count_;
  stats.largest = largest();
  return stats;
}

}  // namespace dlbridge::cuda
