// SharedLoan: one loan that several holders have a share in. The last one gives it back.
#pragma once

#include <memory>

#include "dlbridge/loan.h"
#include "operation/lost.h"

namespace dlbridge::cuda {

class SharedLoan {
 public:
  SharedLoan() noexcept = default;
  /// Owns. Throws std::bad_alloc; `loan` is then still the caller's.
  explicit SharedLoan(Loan&& loan) : loan_(std::make_shared<Loan>()) { *loan_ = std::move(loan); }

  const TensorView& view() const noexcept { return loan_->view(); }

  /// A further share, as a loan of its own with the same description.
  Loan share() const {
    Loan loan;
    loan.describe(loan_->view());
    auto* held = new std::shared_ptr<Loan>(loan_);
    loan.attach({held, [](void* context) noexcept {
                   delete static_cast<std::shared_ptr<Loan>*>(context);
                 }});
    return loan;
  }

  /// From here on the last holder gives `deleter` back. Requires: no deleter yet.
  void give(Deleter deleter) noexcept { loan_->attach(deleter); }

  /// The loan itself again, for whoever handed it in. Requires: nobody else has a share.
  Loan take_back() noexcept { return std::move(*loan_); }

  /// Never gives the memory back: something may still be writing it.
  void leak() noexcept { lose(loan_->release_deleter()); }

 private:
  std::shared_ptr<Loan> loan_;
};

/// A caller's loan while an operation is being made of it: back to the caller unless kept.
class HandedIn {
 public:
  /// Throws std::bad_alloc; `loan` is then untouched.
  explicit HandedIn(Loan& loan) : caller_(loan), shared_(std::move(loan)) {}
  HandedIn(const HandedIn&) = delete;
  HandedIn& operator=(const HandedIn&) = delete;
  ~HandedIn() {
    if (!kept_) caller_ = shared_.take_back();
  }

  const SharedLoan& loan() const noexcept { return shared_; }
  void keep() noexcept { kept_ = true; }

 private:
  Loan& caller_;
  SharedLoan shared_;
  bool kept_ = false;
};

}  // namespace dlbridge::cuda
