// SPDX-License-Identifier: Apache-2.0
// PinnedPool: tickets and fences, and the end of a pool.
#include <iterator>
#include <optional>

#include "pinned/pool.h"
#include "runtime/guards.h"

namespace dlbridge::cuda {
namespace {

using pinned::leak_all;

// Blocks whose tickets one call of poll_if_due() polls.
constexpr size_t kPolledAtEnd = 64;
constexpr auto kLongestEnd = std::chrono::seconds(1);
constexpr auto kEndPause = std::chrono::microseconds(50);

// Records of blocks whose pool has ended: their deleters may run at any time.
auto& held_for_ever() {
  static auto& held = *new std::map<const std::byte*, pinned::Block>;
  return held;
}

}  // namespace

// 1: all have passed; 0: not yet; -1: a device failed. Those that passed are taken out.
int PinnedPool::poll_events(std::vector<PooledEvent>& events) noexcept {
  for (size_t i = events.size(); i-- > 0;) {
    const int passed = fences_.passed(events[i]);
    if (passed == 0) continue;
    if (passed < 0) {
      leak_all(events);
      events.clear();
      return -1;
    }
    std::swap(events[i], events.back());
    events.pop_back();
  }
  return events.empty() ? 1 : 0;
}

// Polls the fences, and the tickets of `most` blocks. Without `wait` it leaves the work to a thread
// that polls already; with it, what another thread is about to find is found on return.
void PinnedPool::poll(size_t most, bool wait) {
  if (forked()) return;
  std::unique_lock polling(poll_mutex_, std::defer_lock);
  if (wait) {
    polling.lock();
  } else if (!polling.try_lock()) {
    return;
  }
  {
    const Lock lock(mutex_);
    pending_.append(retired_);
    if (released_.empty() && batches_.empty() && pending_.empty()) return;
  }
  std::list<Batch> fresh(1);
  std::optional<ContextGuard> guard;
  try {
    guard.emplace(api_, context_.load());
  } catch (const Error&) {
    return;  // without a context CUDA would make one
  }

  BlockList released;
  {
    const Lock lock(mutex_);
    released.append(released_);
    released_bytes_ = 0;
  }
  BlockList passed;
  BlockList failed;
  BlockList not_yet;
  BlockList unfenced;
  const auto poll_block = [&](Block* block) {
    const int state = poll_events(block->tickets);
    (state > 0 ? passed : state < 0 ? failed : not_yet).push_back(block);
  };
  if (!released.empty()) {
    Fence& fence = fresh.front().fence = fences_.fence();
    // Of a device that failed the fence says nothing. Read after it: a failure is counted before
    // fences leave the device out.
    const unsigned failures = failures_.load();
    while (Block* const block = released.pop_front()) {
      const bool lost = fence.failed || block->failures != failures;
      (lost ? failed : fence.capturing ? unfenced : fresh.front().blocks).push_back(block);
    }
    if (!fresh.front().blocks.empty()) batches_.splice(batches_.end(), fresh);
  }
  for (auto next = batches_.begin(); next != batches_.end();) {
    const auto batch = next++;
    const int state = poll_events(batch->fence.events);
    if (state == 0) continue;
    while (Block* const block = batch->blocks.pop_front()) {
      if (state > 0) {
        poll_block(block);
      } else {
        failed.push_back(block);
      }
    }
    batches_.erase(batch);
  }
  for (; most > 0 && !pending_.empty(); --most) poll_block(pending_.pop_front());
  pending_.append(not_yet);

  const Lock lock(mutex_);
  while (Block* const block = passed.pop_front()) make_free(block);
  while (Block* const block = failed.pop_front()) {
    leak_all(block->tickets);
    block->tickets.clear();
    move(block, State::leaked);
  }
  while (Block* const block = unfenced.pop_front()) {
    released_bytes_ += block->bytes;
    released_.push_back(block);
  }
  needs_poll_.store(!batches_.empty() || released_bytes_ >= kWaitingBytes,
                    std::memory_order_relaxed);
}

void PinnedPool::poll_if_due() noexcept {
  if (!needs_poll_.load(std::memory_order_relaxed)) return;
  try {
    poll(kPolledAtEnd, false);
  } catch (const std::bad_alloc&) {
    // The next call tries again.
  }
}

PinnedPool::~PinnedPool() {
  stop({});
  if (thread_.joinable()) thread_.join();
  const auto deadline = Clock::now() + kLongestEnd;
  while (true) {
    trim(0);
    const PinnedStats now = stats();
    if (now.in_flight + now.quarantined == 0 || Clock::now() >= deadline) break;
    std::this_thread::sleep_for(kEndPause);
  }
  for (Batch& batch : batches_) leak_all(batch.fence.events);
  for (Segment& segment : segments_) {
    bool in_use = false;
    auto next = blocks_.find(segment.memory.data());
    while (next != blocks_.end() && next->second.segment == &segment) {
      const auto entry = next++;
      Block& block = entry->second;
      leak_all(block.tickets);
      in_use |= block.state != State::free && block.state != State::owned;
      block.pool = nullptr;
      if (block.state == State::owned) held_for_ever().insert(blocks_.extract(entry));
    }
    if (!in_use) segment.memory.unregister(api_);
    segment.memory.abandon();
  }
}

}  // namespace dlbridge::cuda
