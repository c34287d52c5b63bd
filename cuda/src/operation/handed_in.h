// SPDX-License-Identifier: Apache-2.0
// HandedIn: a caller's loan while an operation is being made of it.
#pragma once

#include <utility>

#include "dlbridge/shared_loan.h"

namespace dlbridge::cuda {

/// Gives the loan back to the caller unless kept.
class HandedIn {
 public:
  /// Throws std::bad_alloc; `loan` is then untouched.
  explicit HandedIn(Loan& loan) : caller_(loan), shared_(std::move(loan)) {}
  HandedIn(const HandedIn&) = delete;
  HandedIn& operator=(const HandedIn&) = delete;
  ~HandedIn() {
    if (!kept_) caller_ = std::move(shared_.loan());
  }

  const SharedLoan& loan() const noexcept { return shared_; }
  void keep() noexcept { kept_ = true; }

 private:
  Loan& caller_;
  SharedLoan shared_;
  bool kept_ = false;
};

}  // namespace dlbridge::cuda
