// SPDX-License-Identifier: Apache-2.0
// CudaApi: the table of all CUDA functions that this module calls. driver_table.cpp fills it with
// the real functions; tests inject a simulator's, so they test the shipped library.
#pragma once

#include <string>

#include "dlbridge/export.h"
#include "kernels/pack_kernels.h"
#include "runtime/driver.h"

namespace dlbridge::cuda {

struct CudaApi {
#define DRIVER(member, symbol, parameters) CUresult(*member) parameters;
#define OWN(member, parameters) CUresult(*member) parameters;
#include "runtime/cuda_api.def"
#undef OWN
#undef DRIVER
};

/// pack_kernels.ptx as it is, and the names of its kernels.
extern const char* const kPackKernelsPtx;
inline constexpr size_t kPackKernels = 16;
std::string pack_kernel_name(size_t index);

/// The table of the real driver. Without one its functions answer CUDA_ERROR_NOT_INITIALIZED, as
/// does a function that the driver is too old for.
const CudaApi& driver_table() noexcept;

/// The table in use: the injected one or the real one.
const CudaApi& cuda_api() noexcept;

/// Makes `api` the table in use; null: the real one. Ends the current engine: waits for its
/// operations, stops its threads and unregisters its memory. For tests. `piece_bytes`, if not 0:
/// the most that is registered in one call, so that tests need no gigabytes for a seam. Requires:
/// no concurrent call of this module; results of the former engine may still be held.
DLBRIDGE_API void inject_cuda_api(const CudaApi* api, size_t piece_bytes = 0);

}  // namespace dlbridge::cuda
