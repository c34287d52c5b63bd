// LoanBase: the Python object that stands behind an ndarray of ours and owns the loan's memory.
#pragma once

#include <Python.h>

#include "dlbridge/loan.h"

namespace dlbridge {

struct LoanBase {
  PyObject_HEAD Deleter deleter;
  Deleter original;  ///< the deepest deleter behind it: identity only, kept alive by deleter
};

/// The type, ready for use after initialize_numpy(). Instances hold no Python objects.
extern PyTypeObject loan_base_type;

/// A new LoanBase without an deleter, or null with MemoryError set.
LoanBase* new_loan_base() noexcept;

}  // namespace dlbridge
