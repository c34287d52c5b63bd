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
/// thread-local objects free later do not come here. By default it keeps a batch of tensors.
template <typename T, size_t kBlocks = 64>
class SpareBlocks {
 public:
  static void* take(size_t size) {
    List& list = *list_;
    return list.count > 0 ? list.blocks[--list.count] : ::operator new(size);
  }

  static void put(void* block) noexcept {
    List& list = *list_;
    if (list.count < list.room) [[likely]] {
      list.blocks[list.count++] = block;
      return;
    }
    ::operator delete(block);
    if (&list == &unused_) open();
  }

 private:
  struct List {
    size_t count = 0;
    size_t room = 0;
    std::array<void*, kBlocks> blocks{};
  };

  // Closes the list when the thread ends; made with the first block that is put.
  struct Closer {
    Closer() noexcept {
      if (auto* list = new (std::nothrow) List) {
        list->room = kBlocks;
        list_ = list;
      }
    }
    ~Closer() {
      List* list = list_;
      list_ = &closed_;
      if (list == &unused_) return;
      while (list->count > 0) ::operator delete(list->blocks[--list->count]);
      delete list;
    }
    void touch() noexcept {}
  };

  static void open() noexcept {
    static thread_local Closer closer;
    closer.touch();
  }

  // Without room, and never written.
  static inline constinit List unused_{};
  static inline constinit List closed_{};
  // A pointer alone: more thread-local memory would not fit where its access costs least.
  static inline constinit thread_local List* list_ = &unused_;
};

}  // namespace dlbridge
