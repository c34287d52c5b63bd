// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda_error.h"

#include <string>

namespace dlbridge::cuda {
bool is_sticky(CUresult error) noexcept {
  switch (error) {
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_CONTAINED:
    case CUDA_ERROR_DEVICE_UNAVAILABLE:
    case CUDA_ERROR_EXTERNAL_DEVICE:
    case CUDA_ERROR_MPS_CLIENT_TERMINATED:
    case CUDA_ERROR_TENSOR_MEMORY_LEAK:
    case CUDA_ERROR_UNKNOWN:
      return true;
    default:
      return false;
  }
}

void check(CUresult result, const char* call) {
  if (result == CUDA_SUCCESS) [[likely]]
    return;
  const bool memory = result == CUDA_ERROR_OUT_OF_MEMORY;
  throw CudaError(result, memory ? ErrorCode::out_of_memory : ErrorCode::device_failed,
                  std::string(call) + " failed with " + error_name(result) + " (" +
                      std::to_string(static_cast<int>(result)) + ")");
}

std::string error_name(CUresult error) {
  switch (error) {
#define DLBRIDGE_RESULT(name, number) \
  case name:                          \
    return #name;
    DLBRIDGE_CUDA_RESULTS(DLBRIDGE_RESULT)
#undef DLBRIDGE_RESULT
  }
  return "CUDA error";
}

}  // namespace dlbridge::cuda
