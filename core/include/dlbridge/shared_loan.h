// SPDX-License-Identifier: Apache-2.0
// SharedLoan: one loan with several holders. The last one gives the memory back.
//
// Thread: any; the description must not change once the loan is shared.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

#include "dlbridge/export.h"
#include "dlbridge/loan.h"

namespace dlbridge {

/// A loan and the number of its references, one to begin with. Allocated with new; the last
/// reference deletes it.
class DLBRIDGE_API CountedLoan {
 public:
  explicit CountedLoan(Loan&& loan) noexcept : loan_(std::move(loan)) {}
  virtual ~CountedLoan() = default;
  CountedLoan(const CountedLoan&) = delete;
  CountedLoan& operator=(const CountedLoan&) = delete;

  Loan& loan() noexcept { return loan_; }

  /// Adds a reference, which the deleter drops.
  Deleter reference() noexcept {
    references_.fetch_add(1, std::memory_order_relaxed);
    return {this, [](void* context) noexcept { static_cast<CountedLoan*>(context)->drop(); }};
  }
  void drop() noexcept {
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  /// The deleter of the original storage, as Loan::original.
  Deleter original() const noexcept { return loan_.original ? loan_.original : loan_.deleter(); }

  /// A loan over the same memory with a reference of its own. Throws std::bad_alloc above
  /// Loan::kInlineRank.
  Loan share() {
    Loan shared;
    shared.describe(loan_.view());
    shared.attach(reference());
    shared.original = original();
    return shared;
  }

 private:
  std::atomic<int64_t> references_{1};
  Loan loan_;
};

/// A reference to a CountedLoan. Copies count.
class SharedLoan {
 public:
  SharedLoan() noexcept = default;
  /// Owns. Throws std::bad_alloc; `loan` then still owns its memory.
  explicit SharedLoan(Loan&& loan) : counted_(new CountedLoan(std::move(loan))) {}
  SharedLoan(const SharedLoan& other) noexcept : counted_(other.counted_) {
    if (counted_ != nullptr) static_cast<void>(counted_->reference());
  }
  SharedLoan(SharedLoan&& other) noexcept : counted_(std::exchange(other.counted_, nullptr)) {}
  SharedLoan& operator=(SharedLoan other) noexcept {
    std::swap(counted_, other.counted_);
    return *this;
  }
  ~SharedLoan() {
    if (counted_ != nullptr) counted_->drop();
  }

  const TensorView& view() const noexcept { return counted_->loan().view(); }
  Deleter reference() const noexcept { return counted_->reference(); }
  Deleter original() const noexcept { return counted_->original(); }
  Loan share() const { return counted_->share(); }

  /// The loan itself. Requires: no other holder uses it meanwhile.
  Loan& loan() noexcept { return counted_->loan(); }

 private:
  CountedLoan* counted_ = nullptr;
};

}  // namespace dlbridge
