// SPDX-License-Identifier: Apache-2.0
#include "pinned/arena.h"

#include <algorithm>
#include <functional>

namespace dlbridge::cuda::pinned {

void BlockList::push_front(Block* block) noexcept {
  block->previous = nullptr;
  block->next = first_;
  (first_ != nullptr ? first_->previous : last_) = block;
  first_ = block;
}

void BlockList::push_back(Block* block) noexcept {
  block->next = nullptr;
  block->previous = last_;
  (last_ != nullptr ? last_->next : first_) = block;
  last_ = block;
}

Block* BlockList::pop_front() noexcept {
  Block* const block = first_;
  if (block != nullptr) remove(block);
  return block;
}

void BlockList::remove(Block* block) noexcept {
  (block->previous != nullptr ? block->previous->next : first_) = block->next;
  (block->next != nullptr ? block->next->previous : last_) = block->previous;
  block->next = block->previous = nullptr;
}

void BlockList::append(BlockList& other) noexcept {
  if (other.empty()) return;
  other.first_->previous = last_;
  (last_ != nullptr ? last_->next : first_) = other.first_;
  last_ = other.last_;
  other.first_ = other.last_ = nullptr;
}

std::unique_ptr<Span> make_span(Core& core, int size_class, size_t block_bytes) {
  auto span = std::make_unique<Span>();
  span->size_class = size_class;
  span->block_bytes = block_bytes;
  const size_t bytes = size_class < 0 ? block_bytes : span_bytes(size_class);
  span->count = static_cast<uint32_t>(bytes / block_bytes);
  span->pages = bytes / kPage;
  span->blocks = std::make_unique<Block[]>(span->count);
  for (uint32_t i = 0; i < span->count; ++i) {
    span->blocks[i].span = span.get();
    span->blocks[i].core = &core;
  }
  return span;
}

Arena::Segments Arena::make_segment(PinnedSegment& memory, std::unique_ptr<Span> large_span) {
  auto segment = std::make_unique<Segment>();
  const size_t pages = memory.size() / kPage;
  // Room for as many spans as there can ever be, so that placing one cannot fail.
  segment->spans.reserve(large_span ? 1 : pages);
  if (large_span) {
    large_span->segment = segment.get();
    large_span->blocks[0].data = memory.data();
    segment->spans.push_back(std::move(large_span));
    segment->busy = 1;
  } else {
    segment->pages.resize(pages);
    segment->longest_run = pages;
  }
  Segments made;
  Segment& stored = *(made[memory.data()] = std::move(segment));
  stored.memory = std::move(memory);
  return made;
}

Segment& Arena::insert(Segments& made) noexcept {
  Segment& segment = *made.begin()->second;
  segments_.insert(made.extract(made.begin()));
  if (!segment.large()) shared_bytes_ += segment.memory.size();
  if (segment.busy == 0) segment.idle_since = ++clock_;
  return segment;
}

BlockList& Arena::idle_list(const Span& span) noexcept {
  return span.size_class < 0 ? idle_large_ : idle_[static_cast<size_t>(span.size_class)];
}

void Arena::mark_taken(Block* block) noexcept {
  --block->span->idle;
  ++block->span->segment->busy;
}

Block* Arena::take(int size_class) noexcept {
  Block* const block = idle_[static_cast<size_t>(size_class)].pop_front();
  if (block != nullptr) mark_taken(block);
  return block;
}

Block* Arena::take_large(size_t wanted) noexcept {
  Block* best = nullptr;
  for (Block* block = idle_large_.first(); block != nullptr; block = block->next) {
    if (serves(block->bytes(), wanted) && (best == nullptr || block->bytes() < best->bytes()))
      best = block;
  }
  if (best == nullptr) return nullptr;
  idle_large_.remove(best);
  mark_taken(best);
  return best;
}

void Arena::put(Block* block) noexcept {
  Span& span = *block->span;
  idle_list(span).push_front(block);
  ++span.idle;
  if (--span.segment->busy == 0) span.segment->idle_since = ++clock_;
}

bool Arena::place(std::unique_ptr<Span>& span, bool dissolving) noexcept {
  for (auto& [address, segment] : segments_) {
    if (place_in(*segment, span)) return true;
  }
  if (!dissolving) return false;
  for (auto& [address, segment] : segments_) {
    dissolve(*segment);
    if (place_in(*segment, span)) return true;
  }
  return false;
}

bool Arena::place_in(Segment& segment, std::unique_ptr<Span>& span) noexcept {
  if (segment.longest_run < span->pages) return false;
  size_t run = 0;
  size_t longest = 0;
  for (size_t page = 0; page < segment.pages.size(); ++page) {
    run = segment.pages[page] == nullptr ? run + 1 : 0;
    longest = std::max(longest, run);
    if (run < span->pages) continue;
    span->segment = &segment;
    span->first_page = page + 1 - span->pages;
    std::fill_n(segment.pages.begin() + static_cast<ptrdiff_t>(span->first_page), span->pages,
                span.get());
    BlockList& list = idle_list(*span);
    for (uint32_t i = 0; i < span->count; ++i) {
      Block& block = span->blocks[i];
      block.data = segment.memory.data() + span->first_page * kPage + i * span->block_bytes;
      list.push_back(&block);
    }
    span->idle = span->count;
    segment.spans.push_back(std::move(span));
    return true;
  }
  segment.longest_run = longest;
  return false;
}

void Arena::unlink_idle(Span& span) noexcept {
  BlockList& list = idle_list(span);
  for (uint32_t i = 0; i < span.count; ++i) list.remove(&span.blocks[i]);
}

void Arena::dissolve(Segment& segment) noexcept {
  if (segment.large()) return;
  for (size_t i = segment.spans.size(); i-- > 0;) {
    Span& span = *segment.spans[i];
    if (span.idle < span.count) continue;
    unlink_idle(span);
    std::fill_n(segment.pages.begin() + static_cast<ptrdiff_t>(span.first_page), span.pages,
                nullptr);
    segment.spans[i].swap(segment.spans.back());
    segment.spans.pop_back();
    segment.longest_run = segment.pages.size();  // not known any more: found out when next needed
  }
}

size_t Arena::idle_bytes() const noexcept {
  size_t bytes = 0;
  for (const auto& [address, segment] : segments_)
    bytes += segment->busy == 0 ? segment->memory.size() : 0;
  return bytes;
}

Arena::Segments Arena::take_idle(size_t bytes) noexcept {
  Segments taken;
  for (size_t so_far = 0; so_far < bytes;) {
    auto oldest = segments_.end();
    for (auto i = segments_.begin(); i != segments_.end(); ++i) {
      if (i->second->busy == 0 &&
          (oldest == segments_.end() || i->second->idle_since < oldest->second->idle_since))
        oldest = i;
    }
    if (oldest == segments_.end()) break;
    Segment& segment = *oldest->second;
    for (const auto& span : segment.spans) unlink_idle(*span);
    if (!segment.large()) shared_bytes_ -= segment.memory.size();
    so_far += segment.memory.size();
    taken.insert(segments_.extract(oldest));
  }
  return taken;
}

Segment* Arena::segment_of(const void* address) const noexcept {
  const auto* const byte = static_cast<const std::byte*>(address);
  auto after = segments_.upper_bound(byte);
  if (after == segments_.begin()) return nullptr;
  Segment& segment = *std::prev(after)->second;
  return std::less<>{}(byte, segment.memory.data() + segment.memory.size()) ? &segment : nullptr;
}

Block* Arena::find(const void* address) const noexcept {
  Segment* const segment = segment_of(address);
  if (segment == nullptr) return nullptr;
  if (segment->large()) return &segment->spans.front()->blocks[0];
  const auto offset =
      static_cast<size_t>(static_cast<const std::byte*>(address) - segment->memory.data());
  Span* const span = segment->pages[offset / kPage];
  if (span == nullptr) return nullptr;
  return &span->blocks[(offset - span->first_page * kPage) / span->block_bytes];
}

}  // namespace dlbridge::cuda::pinned
