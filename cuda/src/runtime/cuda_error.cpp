// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda_error.h"

#include <string>

namespace dlbridge::cuda {

bool is_sticky(CUresult error) noexcept {
#define DLBRIDGE_RESULT(name, number) error == name ||
  return DLBRIDGE_CUDA_STICKY_RESULTS(DLBRIDGE_RESULT) false;
#undef DLBRIDGE_RESULT
}

void check(CUresult result, const char* call) {
  if (result == CUDA_SUCCESS) [[likely]]
    return;
  ErrorCode reason = ErrorCode::device_failed;
  if (result == CUDA_ERROR_OUT_OF_MEMORY) reason = ErrorCode::out_of_memory;
  if (result == CUDA_ERROR_NOT_SUPPORTED) reason = ErrorCode::unsupported_device;
  throw CudaError(result, reason,
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
