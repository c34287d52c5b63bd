// SPDX-License-Identifier: Apache-2.0
// The kernels' parameters, which are passed by value.
#pragma once

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

}  // namespace dlbridge::cuda
