// SPDX-License-Identifier: Apache-2.0
// SpareBlocks: memory for torch's StorageImpl and TensorImpl that a thread reuses.
//
// A conversion makes one of each and usually drops both soon after. Without the reuse of their
// memory the bar of to_torch in benchmarks/overhead.py fails: 1.8, direct tier.
#pragma once

#include <array>
#include <cstddef>
#include <new>

namespace dlbridge {

/// Memory blocks for objects of type T, which the thread that freed them reuses. Blocks may come
/// from other threads. A thread frees its blocks when it ends; objects that destructors of other
/// thread-local objects free later do not come here.
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

  // Trivial, so that it can be read as long as the thread runs.
  struct List {
    std::array<void*, 64> blocks;  // a batch of tensors
    size_t count;
    State state;
  };

  // Closes the list when the thread ends; made with the first block that is put.
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

}  // namespace dlbridge
