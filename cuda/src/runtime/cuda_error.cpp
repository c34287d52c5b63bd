// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda_error.h"

#include <string>

namespace dlbridge::cuda {
namespace {

[[noreturn]] void fail(cudaError_t error, const char* call) {
  const bool memory = error == cudaErrorMemoryAllocation;
  throw CudaError(error, memory ? ErrorCode::out_of_memory : ErrorCode::device_failed,
                  std::string(call) + " failed with " + error_name(error) + " (" +
                      std::to_string(static_cast<int>(error)) + ")");
}

}  // namespace

std::string error_name(cudaError_t error) {
  switch (error) {
#define DLBRIDGE_X(name) \
  case name:             \
    return #name;
    DLBRIDGE_X(cudaErrorInvalidValue)
    DLBRIDGE_X(cudaErrorMemoryAllocation)
    DLBRIDGE_X(cudaErrorInitializationError)
    DLBRIDGE_X(cudaErrorCudartUnloading)
    DLBRIDGE_X(cudaErrorInsufficientDriver)
    DLBRIDGE_X(cudaErrorNoDevice)
    DLBRIDGE_X(cudaErrorInvalidDevice)
    DLBRIDGE_X(cudaErrorNoKernelImageForDevice)
    DLBRIDGE_X(cudaErrorDeviceUninitialized)
    DLBRIDGE_X(cudaErrorContextIsDestroyed)
    DLBRIDGE_X(cudaErrorECCUncorrectable)
    DLBRIDGE_X(cudaErrorInvalidResourceHandle)
    DLBRIDGE_X(cudaErrorIllegalAddress)
    DLBRIDGE_X(cudaErrorLaunchOutOfResources)
    DLBRIDGE_X(cudaErrorLaunchTimeout)
    DLBRIDGE_X(cudaErrorHostMemoryAlreadyRegistered)
    DLBRIDGE_X(cudaErrorHostMemoryNotRegistered)
    DLBRIDGE_X(cudaErrorIllegalInstruction)
    DLBRIDGE_X(cudaErrorMisalignedAddress)
    DLBRIDGE_X(cudaErrorInvalidAddressSpace)
    DLBRIDGE_X(cudaErrorInvalidPc)
    DLBRIDGE_X(cudaErrorLaunchFailure)
    DLBRIDGE_X(cudaErrorNotPermitted)
    DLBRIDGE_X(cudaErrorNotSupported)
    DLBRIDGE_X(cudaErrorStreamCaptureUnsupported)
    DLBRIDGE_X(cudaErrorStreamCaptureInvalidated)
    DLBRIDGE_X(cudaErrorStreamCaptureImplicit)
    DLBRIDGE_X(cudaErrorUnknown)
#undef DLBRIDGE_X
    default:
      return "error " + std::to_string(static_cast<int>(error));
  }
}

void check(cudaError_t result, const char* call) {
  if (result != cudaSuccess) [[unlikely]]
    fail(result, call);
}

void check(CUresult result, const char* call) {
  if (result != CUDA_SUCCESS) [[unlikely]]
    fail(as_runtime_error(result), call);
}

}  // namespace dlbridge::cuda
