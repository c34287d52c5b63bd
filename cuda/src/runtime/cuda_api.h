// SPDX-License-Identifier: Apache-2.0
// CudaApi: the table of all CUDA functions that this module calls. runtime_table.cpp fills it with
// the real functions; tests inject a simulator's, so they test the shipped library.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "dlbridge/export.h"
#include "kernels/pack_kernels.h"

#ifdef CUDA_API_PER_THREAD_DEFAULT_STREAM
#error "stream 0 would mean another stream in this module than in its callers"
#endif

namespace dlbridge::cuda {

struct CudaApi {
#define RUNTIME(member, symbol) decltype(&::symbol) member;
#define DRIVER(member, symbol, version) decltype(&::symbol) member;
#include "runtime/cuda_api.def"
#undef RUNTIME
#undef DRIVER

  /// Starts a kernel of pack_kernels.cu in `stream` order. `params` is copied before the call
  /// returns.
  cudaError_t (*launch)(KernelId kernel, const PackParams& params, cudaStream_t stream);
  cudaError_t (*gather)(const GatherParams& params, cudaStream_t stream);
  /// Loads all kernels on the current device, so that no later launch synchronises to do it.
  cudaError_t (*preload_kernels)();
};

/// The table of the real runtime. Without a driver its functions answer CUDA_ERROR_NOT_INITIALIZED.
const CudaApi& runtime_table() noexcept;

/// The table in use: the injected one or the real one.
const CudaApi& cuda_api() noexcept;

/// Makes `api` the table in use; null: the real one. Ends the current engine: waits for its
/// operations, stops its threads and unregisters its memory. For tests. `piece_bytes`, if not 0:
/// the most that is registered in one call, so that tests need no gigabytes for a seam. Requires:
/// no concurrent call of this module; results of the former engine may still be held.
DLBRIDGE_API void inject_cuda_api(const CudaApi* api, size_t piece_bytes = 0);

}  // namespace dlbridge::cuda
