// SPDX-License-Identifier: Apache-2.0
// Loan: the neutral value that every adapter gives and takes, made on the stack.
//
// Holds a description (shape and strides inline up to rank 8) and, once acquired, the deleter of
// the memory. Move-only. A Loan with a deleter keeps the memory alive; its destructor calls the
// deleter once. Thread: one thread at a time uses a Loan; its deleter may run on any thread.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <utility>

#include "dlbridge/export.h"
#include "dlbridge/tensor_view.h"

namespace dlbridge {

/// A reference to memory: an opaque context and the function that drops it. A null function means
/// there is nothing to free.
struct Deleter {
  using Release = void (*)(void*) noexcept;

  void* context = nullptr;
  Release release = nullptr;

  explicit operator bool() const noexcept { return release != nullptr; }
};

class Loan {
 public:
  static constexpr int32_t kInlineRank = 8;

  Loan() noexcept { use_inline_dims(); }
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
  ~Loan() {
    call_deleter();
    free_dims();
  }

  const TensorView& view() const noexcept { return view_; }
  /// The description, to be filled in by an adapter. `shape` and `strides` are set by set_rank
  /// alone.
  TensorView& view() noexcept { return view_; }

  /// Makes room for `ndim` extents and strides, whose values are not set. Throws std::bad_alloc
  /// above kInlineRank.
  void set_rank(int32_t ndim) {
    if (ndim > kInlineRank || view_.shape != inline_) [[unlikely]]
      change_dims(ndim);
    view_.ndim = ndim;
  }
  int64_t* shape() noexcept { return const_cast<int64_t*>(view_.shape); }
  int64_t* strides() noexcept { return const_cast<int64_t*>(view_.strides); }

  /// Copies the description of `view`, its shape and strides included, without its reasons. Owns
  /// nothing. Requires: no deleter. Throws std::bad_alloc above kInlineRank.
  void describe(const TensorView& view) {
    assert(!owns_memory());
    set_rank(view.ndim);
    std::copy_n(view.shape, view.ndim, shape());
    std::copy_n(view.strides, view.ndim, strides());
    TensorView mine = view;
    mine.shape = shape();
    mine.strides = strides();
    mine.reasons = {};
    mine.detail = nullptr;
    view_ = mine;
  }

  /// Owns: the loan calls `deleter`. Requires: no deleter.
  void attach(Deleter deleter) noexcept {
    assert(!owns_memory());
    deleter_ = deleter;
  }
  bool owns_memory() const noexcept { return static_cast<bool>(deleter_); }
  const Deleter& deleter() const noexcept { return deleter_; }

  /// Moves the deleter out: the caller calls it. The description stays.
  [[nodiscard]] Deleter release_deleter() noexcept { return std::exchange(deleter_, Deleter{}); }

  /// The deleter of the original storage: identity only, borrowed, kept alive by deleter(). An
  /// adapter that finds its own function here recognises memory that it exported itself.
  Deleter original;

  /// Calls the deleter, if there is one, and clears the description.
  void reset() noexcept {
    call_deleter();
    free_dims();
    view_ = TensorView{};
    use_inline_dims();
    original = Deleter{};
  }

 private:
  void call_deleter() noexcept {
    if (deleter_) {
      const Deleter deleter = release_deleter();
      deleter.release(deleter.context);
    }
  }

  void use_inline_dims() noexcept {
    view_.shape = inline_;
    view_.strides = inline_ + kInlineRank;
  }

  [[gnu::noinline, gnu::cold]] void change_dims(int32_t ndim) {
    int64_t* dims = ndim > kInlineRank ? new int64_t[2 * static_cast<size_t>(ndim)] : nullptr;
    free_dims();
    use_inline_dims();
    if (dims == nullptr) return;
    view_.shape = dims;
    view_.strides = dims + ndim;
  }

  void free_dims() noexcept {
    if (view_.shape != inline_) [[unlikely]]
      delete[] view_.shape;
  }

  void take(Loan& other) noexcept {
    view_ = other.view_;
    deleter_ = other.release_deleter();
    original = std::exchange(other.original, Deleter{});
    if (view_.shape == other.inline_) [[likely]] {
      std::copy_n(other.view_.shape, view_.ndim, inline_);
      std::copy_n(other.view_.strides, view_.ndim, inline_ + kInlineRank);
      use_inline_dims();
    }
    other.use_inline_dims();
    other.view_.ndim = 0;
    other.view_.data = nullptr;
  }

  TensorView view_;
  Deleter deleter_;
  int64_t inline_[2 * kInlineRank];  // shape, then strides; set only up to the rank
};

}  // namespace dlbridge
