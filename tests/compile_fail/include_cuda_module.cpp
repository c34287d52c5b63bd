// SPDX-License-Identifier: Apache-2.0
// Neither core's include root nor an adapter's holds anything of the CUDA module.
#include "dlbridge/plan.h"

#ifdef DLBRIDGE_MUST_FAIL
#include "dlbridge/cuda/staging.h"
#endif

dlbridge::Plan decide(const dlbridge::TensorView& view) {
  return dlbridge::plan(view, dlbridge::neutral_traits(), {});
}
