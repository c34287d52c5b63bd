// SPDX-License-Identifier: Apache-2.0
#include "runtime/guards.h"

#include "runtime/cuda_error.h"

namespace dlbridge::cuda {

Capture capture_of(const CudaApi& api, cudaStream_t stream) noexcept {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t answer = api.stream_is_capturing(stream, &status);
  return {answer,
          answer == cudaErrorStreamCaptureImplicit || status != cudaStreamCaptureStatusNone};
}

RelaxedCapture::RelaxedCapture(const CudaApi& api) noexcept : api_(api) {
  api_.thread_exchange_stream_capture_mode(&mode_);
}

RelaxedCapture::~RelaxedCapture() { api_.thread_exchange_stream_capture_mode(&mode_); }

CallGuard::CallGuard(const CudaApi& api, CUcontext context) : api_(api) {
  check(api_.ctx_get_current(&callers_), "cuCtxGetCurrent");
  if (callers_ != context) {
    check(api_.ctx_push_current(context), "cuCtxPushCurrent");
    pushed_ = true;
  }
  relaxed_.emplace(api_);
}

CallGuard::~CallGuard() {
  relaxed_.reset();
  if (!pushed_) return;
  CUcontext mine = nullptr;
  api_.ctx_pop_current(&mine);
}

}  // namespace dlbridge::cuda
