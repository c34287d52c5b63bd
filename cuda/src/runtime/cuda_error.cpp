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

void check(cudaError_t result, const char* call) {
  if (result != cudaSuccess) [[unlikely]]
    fail(result, call);
}

void check(CUresult result, const char* call) {
  if (result != CUDA_SUCCESS) [[unlikely]]
    fail(as_runtime_error(result), call);
}

}  // namespace dlbridge::cuda
