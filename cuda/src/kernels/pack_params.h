// SPDX-License-Identifier: Apache-2.0
// PackParams: the parameters of a pack kernel, passed by value.
#pragma once

#include <cstdint>

namespace dlbridge::cuda {

/// Kernels of pack_kernels.cu.
enum class KernelId : uint8_t {
  strided,    ///< any strides on both sides, one element a thread
  transpose,  ///< two dimensions exchanged: tiles through shared memory
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

}  // namespace dlbridge::cuda
