// SPDX-License-Identifier: Apache-2.0
// PinnedPool: segments, the limit, reservations, and the thread that unregisters.
#include <algorithm>
#include <exception>
#include <iterator>
#include <string>

#include "pinned/pool.h"
#include "runtime/cuda_error.h"
#include "runtime/signals.h"

namespace dlbridge::cuda {
namespace {

using pinned::kHuge;
using pinned::kLargestClassed;

// The size of a block beyond which waiting for one at the limit grows no longer.
constexpr size_t kLongestWait = size_t{1} << 30;
constexpr int kLeastPolls = 8;

}  // namespace

PinnedBlock PinnedPool::take_slowly(size_t bytes, size_t capacity) {
  poll();
  const bool shared = capacity <= kLargestClassed;
  const size_t least = pinned::whole_pages(capacity);
  bool awaited = false;
  Lock lock(mutex_);
  while (true) {
    if (Block* const block = take_free(capacity)) return {block, bytes};
    // One thread at a time adds a shared segment: it will do for the others too.
    if (shared && shared_growth_) {
      changed_.wait(lock, [this] { return !shared_growth_; });
      continue;
    }
    if (allows(least)) break;
    if (open_whole(capacity)) continue;
    if (!awaited && bytes_in(State::in_flight) + bytes_in(State::deferred) >= capacity) {
      awaited = true;
      lock.unlock();
      if (Block* const block = take_awaited(capacity)) return {block, bytes};
      lock.lock();
      continue;
    }
    ++refused_;
    if (least <= limit_) wanted_ = std::max(wanted_, least);
    wake_.notify_one();
    return {};
  }
  // Shared segments grow with what there is: a process that stages a few scalars needs no 8 MiB.
  size_t size = least;
  if (shared) {
    size_t wish = 0;
    for (const Segment& each : segments_) wish += each.whole ? 0 : each.memory.size();
    wish = std::min({wish, kLargestClassed, limit_ - used()});
    size = std::max(least, wish / kHuge * kHuge);
  }
  growing_ += size;
  shared_growth_ |= shared;
  lock.unlock();
  Block* block = nullptr;
  grow(size, capacity, &block);
  return block != nullptr ? PinnedBlock(block, bytes) : PinnedBlock();
}

// At the limit a block that will be free soon is worth a short wait: a fence passes within
// microseconds when the device is idle. The wait is a tenth of what registering would take, at
// about 0.1 ns a byte.
pinned::Block* PinnedPool::take_awaited(size_t capacity) {
  const auto deadline = Clock::now() + std::chrono::microseconds(50) +
                        std::chrono::nanoseconds(std::min(capacity, kLongestWait) / 100);
  for (int polls = 0; polls < kLeastPolls || Clock::now() < deadline; ++polls) {
    std::this_thread::yield();
    poll();
    const Lock lock(mutex_);
    if (Block* const block = take_free(capacity)) return block;
  }
  return nullptr;
}

void PinnedPool::reserve(size_t bytes) {
  require_no_fork();
  const size_t size = pinned::whole_pages(bytes);
  if (size == 0) return;
  {
    const Lock lock(mutex_);
    if (!allows(size)) {
      throw Error(ErrorCode::out_of_memory, "pinned memory",
                  std::to_string(bytes) + " more bytes do not fit into the limit of " +
                      std::to_string(limit_) + ", of which " + std::to_string(used()) +
                      " are registered: raise it with set_pinned_limit");
    }
    growing_ += size;
  }
  if (grow(size, 0, nullptr)) return;
  throw Error(ErrorCode::out_of_memory, "pinned memory",
              "CUDA did not register all of " + std::to_string(bytes) +
                  " bytes; what it registered stays, and the limit is now " +
                  std::to_string(stats().limit) +
                  ": reserve less, or look for a limit of the container or the virtual machine");
}

// Registers a segment of `bytes`, which growing_ includes, and takes a block of it into `taken`;
// null: reserves it. Returns false where it is not registered whole: what is stays usable, and the
// limit is what is registered then, so that later takes do not ask the driver again.
bool PinnedPool::grow(size_t bytes, size_t capacity, Block** taken) {
  const bool reserved = taken == nullptr;
  const bool whole = !reserved && capacity > kLargestClassed;
  std::list<Segment> made;
  Segment* segment = nullptr;
  bool refused = false;
  std::exception_ptr failure;
  size_t left = bytes;
  // What was registered becomes free blocks. Requires: the lock.
  const auto publish = [&](Blocks::node_type& node) {
    const size_t fresh = segment->memory.registered() - segment->usable;
    if (fresh == 0) return;
    if (!made.empty()) segments_.splice(segments_.end(), made);
    std::byte* const data = segment->memory.data() + segment->usable;
    node.key() = data;
    node.mapped().segment = segment;
    node.mapped().data = data;
    node.mapped().bytes = fresh;
    segment->usable += fresh;
    segment->free += fresh;
    left -= fresh;
    growing_ -= fresh;
    registered_ += fresh;
    bytes_[static_cast<size_t>(State::free)] += fresh;
    if (segment->idle()) segment->idle_since = Clock::now();
    list_free(&blocks_.insert(std::move(node)).position->second);
  };
  Blocks::node_type node;
  try {
    node = new_record();
    made.emplace_back(bytes, piece_bytes_, fences_.numa_node(), whole, reserved);
    segment = &made.front();
    bool stopped = false;
    for (size_t done = 0; done < bytes && !refused && !stopped;) {
      const size_t piece = segment->memory.register_next(api_);
      refused = piece == 0;
      done += piece;
      context_.store(segment->memory.context());
      if (!reserved || refused) continue;
      const Lock lock(mutex_);
      publish(node);
      stopped = stopping_;
      node = new_record();
    }
  } catch (const CudaError&) {
    failure = std::current_exception();
  } catch (const Error&) {
    refused = true;  // there is no room to map it
  } catch (...) {
    failure = std::current_exception();
  }

  {
    const Lock lock(mutex_);
    // A reservation that is whole may have been trimmed already.
    if (segment != nullptr && (!reserved || left > 0)) {
      segment->whole = whole && segment->memory.registered() == bytes;
      if (node) publish(node);
      if (made.empty()) segment->memory.shrink();
    }
    growing_ -= left;
    if (refused) {
      ++register_failed_;
      limit_ = std::min(limit_, registered_ + growing_);
    }
    if (left < bytes) ++grows_;
    if (!reserved && !whole) shared_growth_ = false;
    if (!reserved && left == 0) *taken = take_free(capacity);
    if (!reserved && *taken == nullptr) ++refused_;
    changed_.notify_all();
    start_thread();
  }
  if (failure) std::rethrow_exception(failure);
  return left == 0;
}

// ---- Giving memory back

size_t PinnedPool::unregister_idle(Clock::time_point before, size_t bytes, bool reserved_too) {
  std::list<Segment> idle;
  size_t taken = 0;
  {
    const Lock lock(mutex_);
    while (taken < bytes) {
      auto oldest = segments_.end();
      for (auto each = segments_.begin(); each != segments_.end(); ++each) {
        if (!each->idle() || each->idle_since >= before || (each->reserved && !reserved_too))
          continue;
        if (oldest == segments_.end() || each->idle_since < oldest->idle_since) oldest = each;
      }
      if (oldest == segments_.end()) break;
      taken += oldest->memory.size();
      auto block = blocks_.find(oldest->memory.data());
      while (block != blocks_.end() && block->second.segment == &*oldest) {
        free_[pinned::list_of(block->second.bytes)].remove(&block->second);
        block = blocks_.erase(block);
      }
      idle.splice(idle.end(), segments_, oldest);
    }
    registered_ -= taken;
    bytes_[static_cast<size_t>(State::free)] -= taken;
    shrinking_ += taken;
  }
  size_t leaked = 0;
  for (Segment& segment : idle) {
    segment.memory.unregister(api_);
    leaked += segment.memory.registered();
  }
  idle.clear();
  const Lock lock(mutex_);
  shrinking_ -= taken;
  registered_ += leaked;
  bytes_[static_cast<size_t>(State::leaked)] += leaked;
  return taken - leaked;
}

size_t PinnedPool::trim(size_t keep_bytes) {
  if (forked()) return 0;
  poll();
  const size_t registered = stats().registered;
  if (registered <= keep_bytes) return 0;
  return unregister_idle(Clock::time_point::max(), registered - keep_bytes, true);
}

void PinnedPool::set_limit(size_t limit) {
  if (forked()) return;
  {
    const Lock lock(mutex_);
    limit_ = limit;
  }
  trim(limit);
}

void PinnedPool::tidy(Clock::time_point before) {
  poll();
  size_t missing = 0;
  {
    const Lock lock(mutex_);
    const size_t wanted = std::exchange(wanted_, 0);
    if (wanted > 0 && wanted <= limit_ && !allows(wanted)) missing = used() - (limit_ - wanted);
  }
  unregister_idle(before, SIZE_MAX, false);
  if (missing > 0) unregister_idle(Clock::time_point::max(), missing, false);
}

// Requires: the lock.
void PinnedPool::start_thread() noexcept {
  if (idle_age_ == Clock::duration::zero() || thread_runs_ || stopping_) return;
  try {
    const SignalsBlocked blocked;
    thread_ = std::thread([this] { run_thread(); });
    thread_runs_ = true;
  } catch (const std::exception&) {
    // Idle memory stays registered; the next growth tries again.
  }
}

void PinnedPool::run_thread() noexcept {
  Lock lock(mutex_);
  while (true) {
    wake_.wait_for(lock, idle_age_ / 2, [this] { return stopping_ || wanted_ > 0; });
    if (stopping_) break;
    lock.unlock();
    try {
      tidy(Clock::now() - idle_age_);
    } catch (const std::exception&) {
      // The next turn tries again.
    }
    lock.lock();
  }
  thread_runs_ = false;
  changed_.notify_all();
}

void PinnedPool::stop(Clock::duration longest) noexcept {
  if (forked()) return;
  Lock lock(mutex_);
  stopping_ = true;
  wake_.notify_all();
  changed_.wait_for(lock, longest, [this] { return !thread_runs_ && growing_ == 0; });
}

}  // namespace dlbridge::cuda
