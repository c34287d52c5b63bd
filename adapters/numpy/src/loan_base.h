// SPDX-License-Identifier: Apache-2.0
// LoanBase: the base object of ndarrays that dlbridge makes. Owns the loan's memory.
#pragma once

#include <Python.h>

#include "dlbridge/loan.h"

namespace dlbridge {

struct LoanBase {
  PyObject_HEAD Deleter deleter;
  Deleter original;  ///< of the original storage: identity only, kept alive by deleter
};

/// The type, ready for use after initialize_numpy(). Instances hold no Python objects.
extern PyTypeObject loan_base_type;

/// A new LoanBase whose members are not set, or null with MemoryError set.
LoanBase* new_loan_base() noexcept;

}  // namespace dlbridge
