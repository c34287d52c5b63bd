// SPDX-License-Identifier: Apache-2.0
// CUDA's status codes as dlbridge's errors.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "dlbridge/error.h"

namespace dlbridge::cuda {

/// A failed call of CUDA, with its code.
class CudaError : public Error {
 public:
  CudaError(cudaError_t code, ErrorCode reason, std::string message)
      : Error(reason, "device", std::move(message)), cuda_code_(code) {}
  cudaError_t cuda_code() const noexcept { return cuda_code_; }

 private:
  cudaError_t cuda_code_;
};

/// Throws CudaError (device_failed, or out_of_memory) unless `result`
/// is success. `call` names the function.
void check(cudaError_t result, const char* call);
void check(CUresult result, const char* call);

/// The runtime knows the driver's codes under the same numbers.
inline cudaError_t as_runtime_error(CUresult result) noexcept {
  return static_cast<cudaError_t>(result);
}

/// The name of a code, as in the headers ("cudaErrorIllegalAddress").
std::string error_name(cudaError_t error);

/// Returns true for errors that a device does not recover from: its work in flight is lost. Not for
/// cudaErrorContextIsDestroyed, which some drivers answer for the handle of a destroyed stream:
/// DeviceContext::fails_with() asks the context.
bool is_sticky(cudaError_t error) noexcept;

}  // namespace dlbridge::cuda
