// SPDX-License-Identifier: Apache-2.0
// Issue: makes the CUDA calls of one planned copy. A copy must not cross the border (seam) of two
// registrations of host memory, so it is split there.
#pragma once

#include "copy/copy_plan.h"
#include "pinned/pool.h"
#include "runtime/cuda_api.h"

namespace dlbridge::cuda {

/// Enqueues `step`, flat, rows or boxes, on `stream`. `kind` says which side is host memory; that
/// of `pool` is split at its seams. Throws Error (device_failed); some calls may have been accepted
/// by then.
void issue(const CudaApi& api, const PinnedPool& pool, const CopyStep& step, Direction kind,
           CUstream stream);

}  // namespace dlbridge::cuda
