// SPDX-License-Identifier: Apache-2.0
// The copies: what they touch, what CUDA refuses, when a pageable one happens.
#pragma once

#include "call.h"

namespace dlbridge::cuda_sim {

/// Rows of `width` bytes, in slices of `height` rows.
struct CopyShape {
  const void* source = nullptr;
  void* target = nullptr;
  size_t width = 0;
  size_t height = 1;
  size_t depth = 1;
  size_t source_row = 0;  // bytes from row to row
  size_t target_row = 0;
  size_t source_slice = 0;
  size_t target_slice = 0;
};

cudaError_t copy_async(Caller& caller, const CopyShape& shape, cudaMemcpyKind kind,
                       cudaStream_t stream);
cudaError_t check_pitch(Caller& caller, size_t pitch, size_t width, const char* which);

}  // namespace dlbridge::cuda_sim
