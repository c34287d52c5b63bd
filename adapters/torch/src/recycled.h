// Recycled: torch's StorageImpl and TensorImpl, with memory that a thread reuses.
//
// A conversion makes one of each and usually drops both soon after; taking their memory from a
// short list of the thread's own saves the general allocator's work. What is handed out and taken
// back is raw memory: construction and destruction are torch's, unchanged.
#pragma once

#include <array>
#include <cstddef>
#include <new>

namespace dlbridge {

/// Memory blocks for objects of type T, kept for reuse by the thread that freed them. Blocks may
/// come from other threads. What is left when a thread ends is freed; objects that are freed later
/// still, by destructors of other thread-local objects, free their memory themselves.
template <typename T>
class SpareBlocks {
 public:
  static void* take(size_t size) {
    List& list = list_;
    return list.count > 0 ? list.blocks[--list.count] : ::operator new(size);
  }

  static void put(void* block) noexcept {
    List& list = list_;
    if (list.state == State::open && list.count < list.blocks.size()) [[likely]] {
      list.blocks[list.count++] = block;
      return;
    }
    ::operator delete(block);
    if (list.state == State::unused) open();
  }

 private:
  enum class State : unsigned char { unused, open, closed };

  // Trivial, so that it can be looked at for as long as the thread runs.
  struct List {
    std::array<void*, 16> blocks;
    size_t count;
    State state;
  };

  // Closes the list when the thread ends; exists from the first block that was put back.
  struct Closer {
    Closer() noexcept { list_.state = State::open; }
    ~Closer() {
      List& list = list_;
      list.state = State::closed;
      while (list.count > 0) ::operator delete(list.blocks[--list.count]);
    }
    void touch() noexcept {}
  };

  static void open() noexcept {
    static thread_local Closer closer;
    closer.touch();
  }

  static inline constinit thread_local List list_{};
};

/// An Impl whose memory is recycled. Adds no state: everywhere else it is an Impl.
template <typename Impl>
class Recycled final : public Impl {
 public:
  using Impl::Impl;

  static void* operator new(size_t size) { return SpareBlocks<Impl>::take(size); }
  static void operator delete(void* block) noexcept { SpareBlocks<Impl>::put(block); }
};

}  // namespace dlbridge
