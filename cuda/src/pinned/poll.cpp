// SPDX-License-Identifier: Apache-2.0
// PinnedPool: tickets and fences.
#include <algorithm>
#include <optional>

#include "pinned/pool.h"
#include "runtime/cuda_error.h"
#include "runtime/guards.h"

namespace dlbridge::cuda {
namespace {

// Blocks whose tickets one call of poll_if_due() polls.
constexpr size_t kPolledAtEnd = 64;

}  // namespace

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
  std::optional<CallGuard> guard;
  try {
    guard.emplace(api_, context_.load());
  } catch (const Error&) {
    return;  // the context is gone
  }

  BlockSet passed;
  BlockSet failed;
  bool urgent = false;
  {
    const Lock lock(mutex_);
    urgent = stopping_ || (may_be_urgent &&
                           bytes_in(State::deferred) >= std::min(kUrgentBytes, count_.limit / 4));
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
    while (!batch->blocks.empty()) {
      BlockSet::node_type block = batch->blocks.extract(batch->blocks.begin());
      const bool has_tickets = !block.value()->tickets.empty();
      (state < 0 ? failed : has_tickets ? pending_ : passed).insert(std::move(block));
    }
    batches_.erase(batch);
  }
  for (auto next = pending_.begin(); most > 0 && next != pending_.end(); --most) {
    const auto block = next++;
    const int state = poll_events((*block)->tickets);
    if (state != 0) (state > 0 ? passed : failed).insert(pending_.extract(block));
  }

  const Lock lock(mutex_);
  const auto settle = [](BlockSet& blocks, const auto& settled) {
    while (!blocks.empty()) {
      BlockSet::node_type node = blocks.extract(blocks.begin());
      Block* const block = node.value();
      block->node = std::move(node);
      settled(block);
    }
  };
  settle(passed, [this](Block* block) { make_free(block); });
  settle(failed, [this](Block* block) { make_leaked(block); });
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

}  // namespace dlbridge::cuda
