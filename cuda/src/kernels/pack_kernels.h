// SPDX-License-Identifier: Apache-2.0
// The kernels' host side: what the table's `launch`, `gather` and `preload_kernels` are in the real
// runtime.
// Thread: any; the context that is current decides the device.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/pack_params.h"

namespace dlbridge::cuda {

/// Starts `kernel` in `stream` order. `params` is copied before this returns. An empty copy starts
/// nothing. Requires: params as plan_copy makes them (copy_plan.h), device addresses.
cudaError_t launch_pack_kernel(KernelId kernel, const PackParams& params, cudaStream_t stream);

/// Starts the copies of all runs in `stream` order, under the same conditions. Requires: runs that
/// do not overlap.
cudaError_t launch_gather_kernel(const GatherParams& params, cudaStream_t stream);

/// Loads every kernel onto the current device: done lazily, the first launch of each would
/// synchronise.
cudaError_t preload_pack_kernels();

}  // namespace dlbridge::cuda
