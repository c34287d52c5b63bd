// SPDX-License-Identifier: Apache-2.0
// Arena: where blocks lie in segments. Pure bookkeeping: no lock, no CUDA, no waiting.
//
// A shared segment is a row of pages. A span is a run of pages carved into blocks of one class;
// once all its blocks are idle it can be dissolved and its pages carved otherwise. A large segment
// is one span of one block. Idle: lying here, ready to be taken; a free block that a thread keeps
// for itself is not idle.
//
// Owns: segments, spans and block records. Thread: one at a time (Core's lock).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "pinned/segment.h"
#include "pinned/size_classes.h"
#include "runtime/event_pool.h"

namespace dlbridge::cuda::pinned {

class Core;
struct Segment;
struct Span;

enum class State : uint8_t { free, owned, in_flight, deferred, leaked };
inline constexpr size_t kStates = 5;

/// The record of a block. Lives as long as its span.
struct Block {
  Block* next = nullptr;  // in the one list that it stands in
  Block* previous = nullptr;
  Span* span = nullptr;
  Core* core = nullptr;
  std::byte* data = nullptr;
  std::atomic<State> state{State::free};
  std::atomic<bool> ticketed{false};  // whether `tickets` has any; read without the lock
  std::vector<PooledEvent> tickets;
  unsigned failures = 0;  // of devices, when a user was given it

  size_t bytes() const noexcept;
};

/// Blocks in a row; owns none of them.
class BlockList {
 public:
  BlockList() noexcept = default;
  BlockList(BlockList&& other) noexcept { append(other); }
  BlockList& operator=(BlockList&&) = delete;

  bool empty() const noexcept { return first_ == nullptr; }
  Block* first() const noexcept { return first_; }
  void push_front(Block* block) noexcept;
  void push_back(Block* block) noexcept;
  Block* pop_front() noexcept;  ///< null when empty
  void remove(Block* block) noexcept;
  void append(BlockList& other) noexcept;  ///< empties `other`

 private:
  Block* first_ = nullptr;
  Block* last_ = nullptr;
};

/// Blocks of one size, side by side.
struct Span {
  Segment* segment = nullptr;
  size_t block_bytes = 0;
  int size_class = -1;  // -1: large
  uint32_t count = 0;
  uint32_t idle = 0;
  size_t first_page = 0;
  size_t pages = 0;
  std::unique_ptr<Block[]> blocks;
};

inline size_t Block::bytes() const noexcept { return span->block_bytes; }

/// A registered stretch and what is carved from it.
struct Segment {
  PinnedSegment memory;
  std::vector<Span*> pages;  // of a shared segment: the span on each page, or null
  std::vector<std::unique_ptr<Span>> spans;
  size_t longest_run = 0;   // no run of free pages is longer
  size_t busy = 0;          // blocks that are not idle
  uint64_t idle_since = 0;  // when busy became 0
  // At the pool's end:
  size_t holders = 0;    // blocks and the pool that need the mapping
  bool suspect = false;  // something may still write to it: it stays registered

  bool large() const noexcept { return pages.empty(); }
};

/// A span without a place yet. Throws std::bad_alloc.
std::unique_ptr<Span> make_span(Core& core, int size_class, size_t block_bytes);

class Arena {
 public:
  using Segments = std::map<const std::byte*, std::unique_ptr<Segment>>;  // by first address

  /// A segment ready to be inserted: shared, or carved into the one block of `large_span`. Throws
  /// std::bad_alloc; `memory` is then as it was.
  static Segments make_segment(PinnedSegment& memory, std::unique_ptr<Span> large_span);
  /// Takes the one segment of `made`.
  Segment& insert(Segments& made) noexcept;

  /// An idle block, no longer idle; null where there is none.
  Block* take(int size_class) noexcept;
  Block* take_large(size_t wanted) noexcept;
  /// Makes a block idle.
  void put(Block* block) noexcept;

  /// Carves free pages into the blocks of `span`, which become idle; false where no run is long
  /// enough, also not after dissolving, if that is allowed.
  bool place(std::unique_ptr<Span>& span, bool dissolve) noexcept;

  /// Bytes of the segments of which all is idle.
  size_t idle_bytes() const noexcept;
  /// Takes out such segments, the longest idle first, until they are `bytes` or none is left.
  Segments take_idle(size_t bytes) noexcept;

  /// The block or segment that holds an address, or null.
  Block* find(const void* address) const noexcept;
  Segment* segment_of(const void* address) const noexcept;

  Segments& segments() noexcept { return segments_; }
  size_t shared_bytes() const noexcept { return shared_bytes_; }

 private:
  bool place_in(Segment& segment, std::unique_ptr<Span>& span) noexcept;
  void dissolve(Segment& segment) noexcept;
  void unlink_idle(Span& span) noexcept;
  BlockList& idle_list(const Span& span) noexcept;
  void mark_taken(Block* block) noexcept;

  Segments segments_;
  std::array<BlockList, static_cast<size_t>(kClasses)> idle_;
  BlockList idle_large_;
  uint64_t clock_ = 0;
  size_t shared_bytes_ = 0;
};

}  // namespace dlbridge::cuda::pinned
