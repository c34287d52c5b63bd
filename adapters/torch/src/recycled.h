// Recycled: torch's StorageImpl and TensorImpl, with memory that a thread reuses.
//
// A conversion makes one of each and usually drops both soon after; taking their memory from a
// short list of the thread's own saves the general allocator's work. What is handed out and taken
// back is raw memory: construction and destruction are torch's, unchanged.
#pragma once

#include <array>
#include <cstddef>
#include <new>
#include <utility>

namespace dlbridge {

/// Memory blocks of one size, kept for reuse by the thread that owns the list. Blocks may come from
/// other threads.
class SpareBlocks {
 public:
  SpareBlocks() = default;
  SpareBlocks(const SpareBlocks&) = delete;
  SpareBlocks& operator=(const SpareBlocks&) = delete;
  ~SpareBlocks() {
    while (count_ > 0) ::operator delete(blocks_[--count_]);
    closed_ = true;
  }

  void* take(size_t size) { return count_ > 0 ? blocks_[--count_] : ::operator new(size); }

  void put(void* block) noexcept {
    if (closed_ || count_ == blocks_.size()) return ::operator delete(block);
    blocks_[count_++] = block;
  }

 private:
  std::array<void*, 16> blocks_;
  size_t count_ = 0;
  bool closed_ =
      false;  // the thread is ending: objects that outlive the list free their memory themselves
};

/// An Impl whose memory is recycled. Adds no state: everywhere else it is an Impl.
template <typename Impl>
class Recycled final : public Impl {
 public:
  using Impl::Impl;

  static void* operator new(size_t size) { return spares_.take(size); }
  static void operator delete(void* block) noexcept { spares_.put(block); }

 private:
  static inline thread_local SpareBlocks spares_;
};

}  // namespace dlbridge
