// SPDX-License-Identifier: Apache-2.0
// Core's include root holds nothing of the NumPy adapter.
#include "dlbridge/plan.h"

#ifdef DLBRIDGE_MUST_FAIL
#include "dlbridge/numpy.h"
#endif

dlbridge::Plan decide(const dlbridge::TensorView& view) {
  return dlbridge::plan(view, dlbridge::neutral_traits(), {});
}
