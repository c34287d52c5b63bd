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

bool is_sticky(cudaError_t error) noexcept {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorDevicesUnavailable:
    case cudaErrorExternalDevice:
    case cudaErrorMpsClientTerminated:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

ContextGuard::ContextGuard(const CudaApi& api, CUcontext context) : api_(api) {
  check(api_.ctx_get_current(&callers_), "cuCtxGetCurrent");
  if (callers_ == context) return;
  check(api_.ctx_push_current(context), "cuCtxPushCurrent");
  pushed_ = true;
}

ContextGuard::~ContextGuard() {
  if (!pushed_) return;
  CUcontext mine = nullptr;
  api_.ctx_pop_current(&mine);
}

RelaxedCapture::RelaxedCapture(const CudaApi& api) noexcept : api_(api) {
  api_.thread_exchange_stream_capture_mode(&mode_);
}

RelaxedCapture::~RelaxedCapture() { api_.thread_exchange_stream_capture_mode(&mode_); }

}  // namespace dlbridge::cuda
