// SPDX-License-Identifier: Apache-2.0
// Segments that come and go, and the budget.
#include <algorithm>
#include <utility>

#include "pinned/core.h"

namespace dlbridge::cuda::pinned {

class Core::Growth {
 public:
  explicit Growth(Core& core) noexcept : core_(core) {}
  Growth(const Growth&) = delete;
  Growth& operator=(const Growth&) = delete;
  ~Growth() {
    const Lock lock(core_.mutex_);
    end();
  }

  size_t bytes() const noexcept { return bytes_; }

  // Requires, as end() does: the core's lock.
  void begin(size_t bytes, bool shared) noexcept {
    bytes_ = bytes;
    shared_ = shared;
    core_.growing_ += bytes;
    core_.shared_growth_ |= shared;
  }
  void end() noexcept {
    if (bytes_ == 0) return;
    core_.growing_ -= std::exchange(bytes_, 0);
    if (std::exchange(shared_, false)) core_.shared_growth_ = false;
    core_.changed_.notify_all();
  }

 private:
  Core& core_;
  size_t bytes_ = 0;
  bool shared_ = false;
};

PinnedBlock Core::grow(const Want& want, ThreadCache* cache) {
  bool emptied_caches = false;
  for (bool again = false;;) {
    Growth growth(*this);
    const Room room = make_room(want, growth, emptied_caches);
    if (room == Room::refused) return {};
    if (room == Room::retry) {
      if (PinnedBlock block = take_ready(want, cache)) return block;
      if (PinnedBlock block = take_carved(want, cache, true)) return block;
      continue;
    }
    try {
      return register_segment(want, growth, cache);
    } catch (const Error& error) {
      if (again || error.code() != ErrorCode::out_of_memory) throw;
    }
    again = true;
    {
      const Lock lock(mutex_);
      growth.end();
    }
    trim(0);
  }
}

Core::Room Core::make_room(const Want& want, Growth& growth, bool& emptied_caches) {
  const bool shared = want.size_class >= 0;
  const size_t least = shared ? large_bytes(span_bytes(want.size_class)) : want.capacity;
  Lock lock(mutex_);
  for (;;) {
    // One thread at a time adds a shared segment: it will do for the others too.
    if (shared && shared_growth_) {
      changed_.wait(lock, [this] { return !shared_growth_; });
      return Room::retry;
    }
    const size_t used = registered_ + growing_ + shrinking_;
    if (least <= limit_ && used <= limit_ - least) {
      // Shared segments grow with what there is of them: a process that stages a few scalars has no
      // need of 8 MiB.
      const size_t wish = std::clamp(arena_.shared_bytes() / kHuge * kHuge, kHuge, kLargestClassed);
      const size_t room_left = (limit_ - used) / kHuge * kHuge;
      growth.begin(shared ? std::clamp(wish, least, std::max(least, room_left)) : least, shared);
      return Room::granted;
    }
    const bool possible = least <= limit_;
    const size_t missing = possible ? used - (limit_ - least) : 0;
    if (possible && shrinking_ > 0) {
      changed_.wait(lock);
    } else if (possible && arena_.idle_bytes() >= missing) {
      give_back(lock, arena_.take_idle(missing));
    } else if (possible && !emptied_caches) {
      emptied_caches = true;
      empty_caches();
      return Room::retry;
    } else {
      ++refused_;
      return Room::refused;
    }
  }
}

PinnedBlock Core::register_segment(const Want& want, Growth& growth, ThreadCache* cache) {
  PinnedSegment memory(growth.bytes(), piece_bytes_);
  std::unique_ptr<Span> span = make_span(*this, want.size_class, want.capacity);
  const bool shared = want.size_class >= 0;
  Arena::Segments made = Arena::make_segment(memory, shared ? nullptr : std::move(span));
  PinnedSegment& registering = made.begin()->second->memory;
  try {
    registering.register_with(api_);
  } catch (...) {
    const Lock lock(mutex_);
    count_leaked(registering.registered());
    throw;
  }

  const Lock lock(mutex_);
  Segment& segment = arena_.insert(made);
  const size_t bytes = segment.memory.size();
  growth.end();
  registered_ += bytes;
  bytes_[static_cast<size_t>(State::free)] += static_cast<int64_t>(bytes);
  ++grows_;
  if (shared) {
    arena_.place(span, false);
    return take_ready_locked(want, cache);
  }
  Block& block = segment.spans.front()->blocks[0];
  move(&block, State::owned);
  return {&block, block.data, want.bytes};
}

// Pieces that CUDA failed to unregister.
void Core::count_leaked(size_t bytes) noexcept {
  registered_ += bytes;
  bytes_[static_cast<size_t>(State::leaked)] += static_cast<int64_t>(bytes);
}

size_t Core::give_back(Lock& lock, Arena::Segments idle) noexcept {
  size_t bytes = 0;
  for (const auto& [address, segment] : idle) bytes += segment->memory.size();
  registered_ -= bytes;
  bytes_[static_cast<size_t>(State::free)] -= static_cast<int64_t>(bytes);
  shrinking_ += bytes;
  lock.unlock();
  size_t leaked = 0;
  for (const auto& [address, segment] : idle) {
    segment->memory.unregister(api_);
    leaked += segment->memory.registered();
  }
  idle.clear();
  lock.lock();
  shrinking_ -= bytes;
  count_leaked(leaked);
  changed_.notify_all();
  return bytes - leaked;
}

size_t Core::trim(size_t keep_bytes) {
  if (forked()) return 0;
  poll();
  Lock lock(mutex_);
  if (registered_ <= keep_bytes) return 0;
  empty_caches();
  return give_back(lock, arena_.take_idle(registered_ - keep_bytes));
}

void Core::set_limit(size_t limit) {
  if (forked()) return;
  {
    const Lock lock(mutex_);
    limit_ = limit;
  }
  trim(limit);
}

}  // namespace dlbridge::cuda::pinned
