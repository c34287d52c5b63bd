// SPDX-License-Identifier: Apache-2.0
#include "device/copy_stream.h"

#include "runtime/cuda_error.h"

namespace dlbridge::cuda {

CopyStream::CopyStream(const CudaApi& api) : api_(api), ring_(api) {
  check(api_.stream_create_with_flags(&copies_, cudaStreamNonBlocking),
        "cudaStreamCreateWithFlags");
}

CopyStream::~CopyStream() {
  ring_.release(copies_);
  if (kernels_ != nullptr) api_.stream_destroy(kernels_);
  api_.stream_destroy(copies_);
}

cudaStream_t CopyStream::kernels() {
  const std::lock_guard lock(mutex_);
  if (kernels_ == nullptr) {
    check(api_.stream_create_with_flags(&kernels_, cudaStreamNonBlocking),
          "cudaStreamCreateWithFlags");
  }
  return kernels_;
}

}  // namespace dlbridge::cuda
