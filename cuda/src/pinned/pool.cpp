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

// Blocks whose tickets one call of poll_if_due() polls.
constexpr size_t kPolledAtEnd = 64;

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

PinnedPool::PinnedPool(const CudaApi& api, FenceSource& fences, size_t limit, size_t piece_bytes,
                       Clock::duration idle_age)
    : api_(api), fences_(fences), piece_bytes_(piece_bytes), idle_age_(idle_age) {
  count_.limit = limit;
  if (idle_age == Clock::duration::zero()) return;
  try {
    thread_ = start_thread([this] { run_thread(); });
    thread_runs_ = true;
  } catch (const std::exception&) {
    // Idle memory stays registered.
  }
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

bool PinnedPool::add_ticket(const void* address, PooledEvent event) {
  const Lock lock(mutex_);
  Block* const block = block_at(address);
  if (block == nullptr || block->state != State::owned) return false;
  block->tickets.push_back(std::move(event));
  return true;
}

// ---- Tickets and fences

// 1: all have passed; 0: not yet; -1: a device failed. Those that passed are taken out.
int PinnedPool::poll_events(std::vector<PooledEvent>& events) noexcept {
  bool failed = false;
  std::erase_if(events, [&](PooledEvent& event) {
    const int passed = failed ? 0 : fences_.passed(event);
    failed |= passed < 0;
    return passed > 0;
  });
  if (!failed) return events.empty() ? 1 : 0;
  for (PooledEvent& event : events) event.leak();
  events.clear();
  return -1;
}

// Polls the fences, and the tickets of `most` blocks. Without `wait` it leaves the work to a thread
// that polls already; with it, what another thread is about to find is found on return.
void PinnedPool::poll(size_t most, bool wait, bool may_be_urgent) {
  std::unique_lock polling(poll_mutex_, std::defer_lock);
  if (wait) {
    polling.lock();
  } else if (!polling.try_lock()) {
    return;
  }
  {
    const Lock lock(mutex_);
    pending_.merge(retired_);
    if (released_.empty() && batches_.empty() && pending_.empty()) return;
  }
  std::list<Batch> fresh(1);
  Batch& newest = fresh.front();
  bool gone = false;
  const CallGuard guard(api_, context_.load(), &gone);
  if (gone) return;

  BlockSet passed;
  BlockSet failed;
  bool urgent = false;
  {
    const Lock lock(mutex_);
    const bool much = bytes_in(State::deferred) >= std::min(kUrgentBytes, count_.limit / 4);
    urgent = batches_.empty() && (stopping_ || (may_be_urgent && much));  // one at a time
    newest.blocks.swap(released_);
    released_bytes_ = 0;
  }
  if (!newest.blocks.empty()) {
    newest.fence = fences_.fence(urgent);
    // Of a device that failed the fence says nothing. Read after it: a failure is counted before
    // fences leave the device out.
    const unsigned failures = failures_.load();
    for (auto next = newest.blocks.begin(); next != newest.blocks.end();) {
      const auto block = next++;
      if (newest.fence.failed || (*block)->failures != failures)
        failed.insert(newest.blocks.extract(block));
    }
    if (!newest.fence.later) batches_.splice(batches_.end(), fresh);
  }
  for (auto next = batches_.begin(); next != batches_.end();) {
    const auto batch = next++;
    const int state = poll_events(batch->fence.events);
    if (state == 0) continue;
    (state < 0 ? failed : pending_).merge(batch->blocks);
    batches_.erase(batch);
  }
  for (auto next = pending_.begin(); most > 0 && next != pending_.end();) {
    const auto block = next++;
    if (!(*block)->tickets.empty()) --most;
    const int state = poll_events((*block)->tickets);
    if (state != 0) (state > 0 ? passed : failed).insert(pending_.extract(block));
  }

  const Lock lock(mutex_);
  while (!passed.empty()) make_free(take_out(passed, passed.begin()));
  while (!failed.empty()) make_leaked(take_out(failed, failed.begin()));
  if (!fresh.empty()) {  // they go on waiting
    for (const Block* block : newest.blocks) released_bytes_ += block->bytes;
    released_.merge(newest.blocks);
  }
  needs_poll_.store(!batches_.empty() || released_bytes_ >= kWaitingBytes,
                    std::memory_order_relaxed);
}

void PinnedPool::poll_if_due() noexcept {
  if (!needs_poll_.load(std::memory_order_relaxed)) return;
  try {
    poll(kPolledAtEnd, false, true);
  } catch (const std::bad_alloc&) {
    // The next call tries again.
  }
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
