// SPDX-License-Identifier: Apache-2.0
// A Loan owns a share in memory: it moves, it is never copied.
#include <utility>

#include "dlbridge/loan.h"

dlbridge::Loan pass_on(dlbridge::Loan& loan) {
#ifdef DLBRIDGE_MUST_FAIL
  return dlbridge::Loan(loan);
#else
  return dlbridge::Loan(std::move(loan));
#endif
}
