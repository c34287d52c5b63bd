// SPDX-License-Identifier: Apache-2.0
// Python is out of core's reach.
#include "dlbridge/plan.h"

#ifdef DLBRIDGE_MUST_FAIL
#include <Python.h>
#endif

dlbridge::Plan decide(const dlbridge::TensorView& view) {
  return dlbridge::plan(view, dlbridge::neutral_traits(), {});
}
