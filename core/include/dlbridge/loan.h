// Loan: the neutral value that every adapter gives and takes, made on the stack.
//
// Holds a description (shape and strides inline up to rank 8) and, once lent, the deleter of the
// memory. Move-only. Whoever holds a Loan with an deleter keeps the memory alive; destroying it
// gives the memory back exactly once. Thread: a Loan is used by one thread at a time; its release
// may run on any thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "dlbridge/export.h"
#include "dlbridge/tensor_view.h"

namespace dlbridge {

/// One share in some memory: an opaque pointer and the function that gives it back. A null release
/// means nobody has to be told.
struct Deleter {
  using Release = void (*)(void*) noexcept;

  void* context = nullptr;
  Release release = nullptr;

  explicit operator bool() const noexcept { return release != nullptr; }
};

class Loan {
 public:
  static constexpr int32_t kInlineRank = 8;

  Loan() noexcept { view_.shape = view_.strides = inline_; }
  Loan(Loan&& other) noexcept { take(other); }
  Loan& operator=(Loan&& other) noexcept {
    if (this != &other) {
      reset();
      take(other);
    }
    return *this;
  }
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;
  ~Loan() { give_back(); }

  const TensorView& view() const noexcept { return view_; }
  /// The description, to be filled in by an adapter. `shape` and `strides` are set by set_rank
  /// alone.
  TensorView& view() noexcept { return view_; }

  /// Makes room for `ndim` extents and strides, whose values are not set. Throws std::bad_alloc
  /// above kInlineRank.
  void set_rank(int32_t ndim) {
    if (ndim > kInlineRank) [[unlikely]]
      heap_.reset(new int64_t[2 * static_cast<size_t>(ndim)]);
    view_.ndim = ndim;
    view_.shape = base();
    view_.strides = base() + stride_offset();
  }
  int64_t* shape() noexcept { return base(); }
  int64_t* strides() noexcept { return base() + stride_offset(); }

  /// Takes over the description of `view`, shape and strides copied; owns nothing of it. Obstacles
  /// stay behind. Requires: no deleter yet. Throws std::bad_alloc above kInlineRank.
  void describe(const TensorView& view) {
    set_rank(view.ndim);
    std::copy_n(view.shape, view.ndim, shape());
    std::copy_n(view.strides, view.ndim, strides());
    TensorView mine = view;
    mine.shape = shape();
    mine.strides = strides();
    mine.reasons = {};
    mine.found = nullptr;
    view_ = mine;
  }

  /// Owns: from here on the loan gives `deleter` back. Requires: no deleter yet.
  void attach(Deleter deleter) noexcept { deleter_ = deleter; }
  bool owns_memory() const noexcept { return static_cast<bool>(deleter_); }
  const Deleter& deleter() const noexcept { return deleter_; }

  /// Moves the deleter out: the caller gives it back. The description stays.
  [[nodiscard]] Deleter release_deleter() noexcept { return std::exchange(deleter_, Deleter{}); }

  /// The deepest deleter known behind the memory: identity only, borrowed, kept alive by deleter().
  /// An adapter that finds its own release function here recognises memory that it lent itself.
  Deleter original;

  /// Gives the memory back, if it was lent, and forgets the description.
  void reset() noexcept {
    give_back();
    heap_.reset();
    view_ = TensorView{};
    view_.shape = view_.strides = inline_;
    original = Deleter{};
  }

 private:
  void give_back() noexcept {
    if (deleter_) {
      const Deleter deleter = release_deleter();
      deleter.release(deleter.context);
    }
  }

  int64_t* base() noexcept { return heap_ ? heap_.get() : inline_; }
  int32_t stride_offset() const noexcept { return heap_ ? view_.ndim : kInlineRank; }

  void take(Loan& other) noexcept {
    view_ = other.view_;
    heap_ = std::move(other.heap_);
    deleter_ = other.release_deleter();
    original = std::exchange(other.original, Deleter{});
    if (!heap_) {
      for (int32_t i = 0; i < view_.ndim; ++i) {
        inline_[i] = other.inline_[i];
        inline_[kInlineRank + i] = other.inline_[kInlineRank + i];
      }
    }
    view_.shape = base();
    view_.strides = base() + stride_offset();
    other.view_ = TensorView{};
    other.view_.shape = other.view_.strides = other.inline_;
  }

  TensorView view_;
  Deleter deleter_;
  std::unique_ptr<int64_t[]> heap_;
  int64_t inline_[2 * kInlineRank];  // shape, then strides; set only up to the rank
};

}  // namespace dlbridge
