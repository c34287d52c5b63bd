// SPDX-License-Identifier: Apache-2.0
// The kernels' host side: their parameters, passed by value, and what the table's `launch`,
// `gather` and `preload_kernels` are in the real runtime. Thread: any; the context that is current
// decides the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace dlbridge::cuda {

/// Kernels of pack_kernels.cu.
enum class KernelId : uint8_t {
  strided,    ///< any strides on both sides, one element a thread
  transpose,  ///< two dimensions exchanged: tiles through shared memory
  gather,     ///< runs of bytes, a block each
};

/// A strided copy on one device. Dimensions are coalesced, index 0 is the innermost of the target.
struct PackParams {
  static constexpr int32_t kMaxRank = 64;

  const void* source;
  void* target;
  int32_t rank;
  int32_t element_bytes;  ///< 1, 2, 4, 8 or 16
  int64_t count;          ///< product of the extents
  int64_t extent[kMaxRank];
  int64_t source_stride_bytes[kMaxRank];
  int64_t target_stride_bytes[kMaxRank];
};

/// Copies of whole runs of bytes on one device: as many as fit into 4 KB, the parameters that every
/// device takes, so that no table lies in memory of its own.
struct GatherParams {
  static constexpr int32_t kMaxRuns = 168;

  struct Run {
    const void* source;
    void* target;
    int64_t bytes;
  };

  int32_t count;
  Run runs[kMaxRuns];
};
static_assert(sizeof(GatherParams) <= 4096);

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
