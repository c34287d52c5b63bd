// SPDX-License-Identifier: Apache-2.0
// PinnedPool: segments, the limit, reservations, and the thread that unregisters.
#include <algorithm>
#include <exception>
#include <string>

#include "pinned/pool.h"
#include "runtime/cuda_error.h"

namespace dlbridge::cuda {
namespace {

using pinned::kHuge;
using pinned::kLargestShared;

// The size of a block beyond which waiting for one at the limit grows no longer.
constexpr size_t kLongestWait = size_t{1} << 30;
constexpr int kLeastPolls = 8;
constexpr auto kLongestEnd = std::chrono::seconds(1);
constexpr auto kEndPause = std::chrono::microseconds(50);

}  // namespace

// At the limit a block that will be free soon is worth a short wait: a fence passes within
// microseconds when the device is idle. The wait is a tenth of what registering would take, at
// about 0.1 ns a byte.
pinned::Block* PinnedPool::take_slowly(size_t capacity) {
  const auto deadline = Clock::now() + std::chrono::microseconds(50) +
                        std::chrono::nanoseconds(std::min(capacity, kLongestWait) / 100);
  poll();
  const bool shared = capacity <= kLargestShared;
  const size_t least = pinned::whole_pages(capacity);
  Lock lock(mutex_);
  for (int polls = 0;;) {
    if (Block* const block = take_listed(capacity, false)) return block;
    if (Block* const block = take_merged(capacity)) return block;
    // One thread at a time adds a shared segment: it will do for the others too.
    if (shared && shared_growth_) {
      changed_.wait(lock, [this] { return !shared_growth_; });
      continue;
    }
    if (allows(least)) break;
    if (Block* const block = take_listed(capacity, true)) return block;
    const size_t coming = count_.in_flight + count_.quarantined;
    if (coming < capacity || (polls++ >= kLeastPolls && Clock::now() >= deadline)) {
      ++count_.refused;
      if (least <= count_.limit) wanted_ = std::max(wanted_, least);
      changed_.notify_all();
      return nullptr;
    }
    lock.unlock();
    std::this_thread::yield();
    poll();
    lock.lock();
  }
  // Shared segments grow with what there is: a process that stages a few scalars needs no 8 MiB.
  size_t size = least;
  if (shared) {
    size_t wish = 0;
    for (const Segment& each : segments_)
      wish += each.memory.size() <= kLargestShared ? each.memory.size() : 0;
    wish = std::min({wish, kLargestShared, count_.limit - used()});
    size = std::max(least, wish / kHuge * kHuge);
  }
  Block* block = grow(lock, size, false) ? take_listed(capacity, false) : nullptr;
  if (block == nullptr) block = take_merged(capacity);  // pieces are smaller
  if (block == nullptr) ++count_.refused;
  return block;
}

void PinnedPool::reserve(size_t bytes) {
  const size_t size = pinned::whole_pages(bytes);
  if (size == 0) return;
  Lock lock(mutex_);
  if (!allows(size)) {
    throw Error(ErrorCode::out_of_memory, "pinned memory",
                std::to_string(bytes) + " more bytes do not fit into the limit of " +
                    std::to_string(count_.limit) + ", of which " + std::to_string(used()) +
                    " are registered: raise it with set_pinned_limit");
  }
  if (grow(lock, size, true)) return;
  throw Error(ErrorCode::out_of_memory, "pinned memory",
              "CUDA did not register all of " + std::to_string(bytes) +
                  " bytes; what it registered stays, and the limit is now " +
                  std::to_string(count_.limit) +
                  ": reserve less, or look for a limit of the container or the virtual machine");
}

// Registers a segment of `bytes`, which becomes free blocks: that of a reservation piece by piece,
// another one at the end. Returns false where it is not registered whole: what is stays usable, and
// if it was refused the limit is what is registered then, so that later takes do not ask the driver
// again. Releases the lock meanwhile.
bool PinnedPool::grow(Lock& lock, size_t bytes, bool reserved) {
  const bool shared = bytes <= kLargestShared && !reserved;
  shared_growth_ |= shared;
  growing_ += bytes;
  size_t left = bytes;
  std::list<Segment> made;
  Segment* segment = nullptr;
  bool refused = false;
  std::exception_ptr failure;
  do {
    lock.unlock();
    Blocks::node_type record;
    try {
      record = new_record();
      if (segment == nullptr) segment = &made.emplace_back(bytes, piece_bytes_, reserved);
      do {
        refused = segment->memory.register_next(api_) == 0;
      } while (!refused && !reserved && segment->memory.registered() < bytes);
    } catch (const CudaError&) {
      failure = std::current_exception();
    } catch (const Error&) {
      refused = true;  // there is no room to map it
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    const size_t done = bytes - left;
    const size_t fresh = segment == nullptr ? 0 : segment->memory.registered() - done;
    if (fresh == 0) break;
    segments_.splice(segments_.end(), made);
    Block& block = record.mapped();
    record.key() = block.data = segment->memory.data() + done;
    block.segment = segment;
    block.bytes = fresh;
    left -= fresh;
    growing_ -= fresh;
    count_.registered += fresh;
    count_.owned += fresh;
    make_free(&blocks_.insert(std::move(record)).position->second);
  } while (left > 0 && !refused && !failure && !stopping_);

  if (left > 0 && left < bytes) segment->memory.shrink();
  growing_ -= left;
  if (refused) {
    ++count_.register_failed;
    count_.limit = std::min(count_.limit, count_.registered + growing_);
  }
  if (left < bytes) ++count_.grows;
  if (shared) shared_growth_ = false;
  changed_.notify_all();
  if (failure) std::rethrow_exception(failure);
  return left == 0;
}

// ---- Giving memory back

// Unregisters the segments that are idle since `before`, and the longest idle ones until that is
// `least` bytes. Returns the bytes unregistered, which count as owned meanwhile.
size_t PinnedPool::unregister_idle(Clock::time_point before, size_t least, bool reserved_too) {
  std::list<Segment> idle;
  size_t taken = 0;
  {
    const Lock lock(mutex_);
    while (true) {
      auto oldest = segments_.end();
      for (auto each = segments_.begin(); each != segments_.end(); ++each) {
        if (!each->idle() || (each->reserved && !reserved_too)) continue;
        if (oldest == segments_.end() || each->idle_since < oldest->idle_since) oldest = each;
      }
      if (oldest == segments_.end() || (taken >= least && oldest->idle_since >= before)) break;
      taken += oldest->memory.size();
      auto block = blocks_.find(oldest->memory.data());
      while (block != blocks_.end() && block->second.segment == &*oldest) {
        free_.erase(&block->second);
        block = blocks_.erase(block);
      }
      idle.splice(idle.end(), segments_, oldest);
    }
    count_.free -= taken;
    count_.owned += taken;
  }
  size_t leaked = 0;
  for (Segment& segment : idle) {
    segment.memory.unregister(api_);
    leaked += segment.memory.registered();
  }
  idle.clear();
  const Lock lock(mutex_);
  count_.owned -= taken;
  count_.leaked += leaked;
  count_.registered -= taken - leaked;
  return taken - leaked;
}

size_t PinnedPool::trim(size_t keep_bytes) {
  poll();
  const size_t registered = stats().registered;
  if (registered <= keep_bytes) return 0;
  return unregister_idle(Clock::time_point::min(), registered - keep_bytes, true);
}

void PinnedPool::set_limit(size_t limit) {
  {
    const Lock lock(mutex_);
    count_.limit = limit;
  }
  trim(limit);
}

void PinnedPool::tidy(Clock::time_point before) {
  poll();
  size_t missing = 0;
  {
    const Lock lock(mutex_);
    const size_t wanted = std::exchange(wanted_, 0);
    if (wanted > largest() && wanted <= count_.limit) missing = used() - (count_.limit - wanted);
  }
  unregister_idle(before, missing, false);
}

void PinnedPool::run_thread() noexcept {
  Lock lock(mutex_);
  while (true) {
    changed_.wait_for(lock, idle_age_ / 2, [this] { return stopping_ || wanted_ > 0; });
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
  Lock lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
  changed_.wait_for(lock, longest, [this] { return !thread_runs_ && growing_ == 0; });
  const bool over = !thread_runs_ && thread_.joinable();
  lock.unlock();
  if (over) thread_.join();
}

void PinnedPool::end() {
  stop();
  for (const auto deadline = Clock::now() + kLongestEnd; Clock::now() < deadline;) {
    trim(0);
    const PinnedStats now = stats();
    if (now.in_flight + now.quarantined == 0) break;
    std::this_thread::sleep_for(kEndPause);
  }
  const PinnedStats left = stats();
  if (left.owned + left.free != left.registered) return;  // a device may still use it
  for (Segment& segment : segments_) segment.memory.unregister(api_);
}

}  // namespace dlbridge::cuda
