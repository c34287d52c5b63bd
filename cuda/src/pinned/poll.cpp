// SPDX-License-Identifier: Apache-2.0
// Tickets and fences, and the pool's end.
#include <thread>
#include <utility>

#include "pinned/core.h"

namespace dlbridge::cuda::pinned {
namespace {

constexpr auto kLongestEnd = std::chrono::seconds(1);
constexpr auto kEndPause = std::chrono::microseconds(50);

void leak_all(std::vector<PooledEvent>& events) noexcept {
  for (PooledEvent& event : events) event.leak();
  events.clear();
}

void leak_tickets(BlockList& blocks) noexcept {
  while (Block* const block = blocks.pop_front()) leak_all(block->tickets);
}

}  // namespace

// 1: all have passed; 0: not yet; -1: a device failed. Those that passed are taken out.
int Core::poll_events(std::vector<PooledEvent>& events) noexcept {
  for (size_t i = events.size(); i-- > 0;) {
    const int passed = fences_.passed(events[i]);
    if (passed == 0) continue;
    if (passed < 0) {
      leak_all(events);
      return -1;
    }
    std::swap(events[i], events.back());
    events.pop_back();
  }
  return events.empty() ? 1 : 0;
}

void Core::poll(size_t most) {
  if (forked()) return;
  // The polled blocks are taken out, so that no lock is held meanwhile. A concurrent take does not
  // see them.
  std::list<Batch> batches;
  std::list<Batch> fresh;
  BlockList polled;
  {
    const Lock lock(mutex_);
    if (!waiting_.empty()) {
      fresh.emplace_back().blocks.append(waiting_);
      waiting_bytes_ = 0;
    }
    batches.swap(batches_);
    for (; most > 0 && !pending_.empty(); --most) polled.push_back(pending_.pop_front());
  }
  BlockList passed;
  BlockList failed;
  BlockList not_yet;
  const auto sort_batch = [&](Batch& batch, int state) {
    while (Block* const block = batch.blocks.pop_front()) {
      if (state < 0) leak_all(block->tickets);
      const int own = state < 0 ? -1 : poll_events(block->tickets);
      (own > 0 ? passed : own < 0 ? failed : not_yet).push_back(block);
    }
  };
  BlockList unfenced;
  if (!fresh.empty()) {
    fresh.front().fence = fences_.fence();
    set_apart(fresh.front().blocks, failed);
    if (fresh.front().fence.failed) {
      sort_batch(fresh.front(), -1);
    } else if (fresh.front().fence.capturing) {
      unfenced.append(fresh.front().blocks);
    } else {
      batches.splice(batches.end(), fresh);
    }
  }
  std::list<Batch> done;
  for (auto next = batches.begin(); next != batches.end();) {
    const auto batch = next++;
    const int state = poll_events(batch->fence.events);
    if (state == 0) continue;
    sort_batch(*batch, state);
    done.splice(done.end(), batches, batch);
  }
  while (Block* const block = polled.pop_front()) {
    const int state = poll_events(block->tickets);
    (state > 0 ? passed : state < 0 ? failed : not_yet).push_back(block);
  }

  const Lock lock(mutex_);
  while (Block* const block = passed.pop_front()) {
    block->ticketed.store(false, std::memory_order_relaxed);
    make_free(block);
  }
  while (Block* const block = failed.pop_front()) move(block, State::leaked);
  while (Block* const block = unfenced.pop_front()) {
    waiting_bytes_ += block->bytes();
    waiting_.push_back(block);
  }
  pending_.append(not_yet);
  batches_.splice(batches_.begin(), batches);
  needs_care_.store(!batches_.empty() || waiting_bytes_ >= kWaitingBytes,
                    std::memory_order_relaxed);
}

void Core::poll_if_due() noexcept {
  if (!needs_care_.load(std::memory_order_relaxed)) return;
  try {
    poll(kPolledFirst);
  } catch (const std::bad_alloc&) {
    // The next call tries again.
  }
}

// Requires: the fence was taken before. Blocks that a user had when a device failed go to `leaked`.
void Core::set_apart(BlockList& blocks, BlockList& leaked) const noexcept {
  const unsigned failures = failures_.load();
  BlockList kept;
  while (Block* const block = blocks.pop_front()) {
    if (block->failures == failures) {
      kept.push_back(block);
    } else {
      leak_all(block->tickets);
      leaked.push_back(block);
    }
  }
  blocks.append(kept);
}

bool Core::pending_serves(const Want& want) const noexcept {
  const auto any = [&](const BlockList& blocks) {
    for (const Block* block = blocks.first(); block != nullptr; block = block->next) {
      if (want.size_class >= 0
              ? block->span->size_class == want.size_class
              : block->span->size_class < 0 && serves(block->bytes(), want.capacity))
        return true;
    }
    return false;
  };
  if (any(pending_) || any(waiting_)) return true;
  for (const Batch& batch : batches_) {
    if (any(batch.blocks)) return true;
  }
  return false;
}

// ---- The pool's end

void Core::close() noexcept {
  if (forked()) {
    self_ = shared_from_this();  // the child cannot clean up: the core stays
    return;
  }
  const auto deadline = Clock::now() + kLongestEnd;
  Arena::Segments gone;
  Lock lock(mutex_);
  shut_caches();
  bool fenced_held = false;
  for (;;) {
    lock.unlock();
    bool settled = true;
    try {
      poll();
    } catch (const std::bad_alloc&) {
      settled = false;
    }
    lock.lock();
    if (!settled || Clock::now() >= deadline) break;
    const bool waiting = !waiting_.empty() || !pending_.empty() || !batches_.empty();
    if (!waiting && (fenced_held || bytes_[static_cast<size_t>(State::owned)] <= 0)) break;
    lock.unlock();
    if (waiting) {
      std::this_thread::sleep_for(kEndPause);
    } else {
      fence_held(deadline);
      fenced_held = true;
    }
    lock.lock();
  }
  closed_ = true;
  shut_caches();
  sort_out(fenced_held, gone);
  lock.unlock();

  for (const auto& [address, segment] : gone) segment->memory.unregister(api_);
  gone.clear();
  // The segments that are left cannot go while this is one of their holders.
  for (const auto& [address, segment] : arena_.segments()) {
    if (!segment->suspect) segment->memory.unregister(api_);
  }
  lock.lock();
  for (auto next = arena_.segments().begin(); next != arena_.segments().end();) {
    const auto segment = next++;
    if (--segment->second->holders == 0) gone.insert(arena_.segments().extract(segment));
  }
  if (arena_.segments().empty()) self_.reset();
  lock.unlock();
}

// Requires: the lock. From here on no thread keeps blocks for itself.
void Core::shut_caches() noexcept {
  for (const auto& cache : caches_) {
    const std::lock_guard lock(cache->mutex);
    empty(*cache);
    fold(*cache);
    cache->closed = true;
  }
  caches_.clear();
}

// Waits for a fence for the blocks that callers hold. Segments whose events do not pass in time
// stay registered.
void Core::fence_held(Clock::time_point deadline) noexcept {
  std::vector<PooledEvent> events;
  {
    const Lock lock(mutex_);
    for (const auto& [address, segment] : arena_.segments()) segment->suspect = segment->busy > 0;
    try {
      for (const auto& [address, segment] : arena_.segments()) {
        for (const auto& span : segment->spans) {
          for (uint32_t i = 0; i < span->count; ++i) {
            std::vector<PooledEvent>& tickets = span->blocks[i].tickets;
            events.reserve(events.size() + tickets.size());
            for (PooledEvent& ticket : tickets) events.push_back(std::move(ticket));
            tickets.clear();
          }
        }
      }
    } catch (const std::bad_alloc&) {
      leak_all(events);
      return;
    }
  }
  Fence fence = fences_.fence();
  if (fence.failed || fence.capturing) return leak_all(events);
  for (;;) {
    const int own = poll_events(events);
    const int fenced = poll_events(fence.events);
    if (own > 0 && fenced > 0) break;
    if (own < 0 || fenced < 0 || Clock::now() >= deadline) {
      leak_all(events);
      return leak_all(fence.events);
    }
    std::this_thread::sleep_for(kEndPause);
  }
  const unsigned failures = failures_.load();
  const Lock lock(mutex_);
  for (const auto& [address, segment] : arena_.segments()) {
    segment->suspect = false;
    for (const auto& span : segment->spans) {
      for (uint32_t i = 0; i < span->count; ++i) {
        const Block& block = span->blocks[i];
        segment->suspect |= block.state.load(std::memory_order_relaxed) == State::owned &&
                            block.failures != failures;
      }
    }
  }
}

// Requires: the lock. Counts the holders of each segment and moves the unused ones to `gone`. The
// others stay mapped.
void Core::sort_out(bool fenced_held, Arena::Segments& gone) noexcept {
  leak_tickets(waiting_);
  leak_tickets(pending_);
  for (Batch& batch : batches_) {
    leak_all(batch.fence.events);
    leak_tickets(batch.blocks);
  }
  batches_.clear();
  for (auto next = arena_.segments().begin(); next != arena_.segments().end();) {
    const auto entry = next++;
    Segment& segment = *entry->second;
    segment.holders = 1;
    for (const auto& span : segment.spans) {
      for (uint32_t i = 0; i < span->count; ++i) {
        const State state = span->blocks[i].state.load(std::memory_order_relaxed);
        if (state == State::owned) ++segment.holders;
        segment.suspect |= state != State::owned && state != State::free;
      }
    }
    segment.suspect |= segment.holders > 1 && !fenced_held;
    if (segment.holders == 1 && !segment.suspect) gone.insert(arena_.segments().extract(entry));
  }
  self_ = shared_from_this();
}

// A block that comes back after the end.
void Core::orphan(Lock lock, Block* block) noexcept {
  std::shared_ptr<Core> last;
  Arena::Segments gone;
  Segment& segment = *block->span->segment;
  if (!block->tickets.empty()) {  // they are not polled after the end
    leak_all(block->tickets);
    segment.memory.abandon();
  }
  if (--segment.holders > 0) return;
  gone.insert(arena_.segments().extract(segment.memory.data()));
  if (arena_.segments().empty()) last = std::move(self_);
  lock.unlock();
}

}  // namespace dlbridge::cuda::pinned
