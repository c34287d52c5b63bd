// SPDX-License-Identifier: Apache-2.0
// CUDA's status codes as dlbridge's errors.
#pragma once

#include <string>

#include "dlbridge/error.h"
#include "runtime/driver.h"

namespace dlbridge::cuda {

/// A failed call of CUDA, with its code.
class CudaError : public Error {
 public:
  CudaError(CUresult code, ErrorCode reason, std::string message)
      : Error(reason, "device", std::move(message)), cuda_code_(code) {}
  CUresult cuda_code() const noexcept { return cuda_code_; }

 private:
  CUresult cuda_code_;
};

/// Throws CudaError (device_failed, out_of_memory, unsupported_device) unless `result`
/// is success. `call` names the function.
void check(CUresult result, const char* call);

/// The name of a code, as in cuda.h ("CUDA_ERROR_ILLEGAL_ADDRESS").
std::string error_name(CUresult error);

/// Returns true for DLBRIDGE_CUDA_STICKY_RESULTS.
bool is_sticky(CUresult error) noexcept;

}  // namespace dlbridge::cuda
