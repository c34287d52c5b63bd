// SPDX-License-Identifier: Apache-2.0
// A header that lies outside of the include roots this is compiled with.
#include "dlbridge/plan.h"

#ifdef DLBRIDGE_MUST_FAIL
#include DLBRIDGE_MUST_FAIL
#endif

dlbridge::Plan decide(const dlbridge::TensorView& view) {
  return dlbridge::plan(view, dlbridge::neutral_traits(), {});
}
