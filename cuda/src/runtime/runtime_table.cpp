// SPDX-License-Identifier: Apache-2.0
// The real table: the CUDA runtime, linked statically, and the driver, looked up by name,
// so that this library needs no libcuda to load. The only file besides pack_kernels.cu that names
// symbols of the runtime.
// Filled once, by the first caller. Without a driver its functions return an error.
#include "kernels/pack_kernels.h"
#include "runtime/cuda_api.h"
#include "runtime/cuda_error.h"

namespace dlbridge::cuda {
namespace {

// Stands in for a function that no driver offers.
template <class Function>
struct Absent;
template <class... Arguments>
struct Absent<CUresult(CUDAAPI*)(Arguments...)> {
  static CUresult CUDAAPI call(Arguments...) { return CUDA_ERROR_NOT_INITIALIZED; }
};

// Asking initialises the driver at most, never a context.
template <class Function>
Function driver_function(const char* symbol, unsigned version) noexcept {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t result =
      cudaGetDriverEntryPointByVersion(symbol, &address, version, cudaEnableDefault, &found);
  if (result != cudaSuccess || found != cudaDriverEntryPointSuccess || address == nullptr)
    return &Absent<Function>::call;
  return reinterpret_cast<Function>(address);
}

CudaApi fill() noexcept {
  CudaApi api{};
#define RUNTIME(member, symbol) api.member = &::symbol;
#define DRIVER(member, symbol, version) \
  api.member = driver_function<decltype(&::symbol)>(#symbol, version);
#include "runtime/cuda_api.def"
#undef RUNTIME
#undef DRIVER
  api.launch = &launch_pack_kernel;
  api.gather = &launch_gather_kernel;
  api.preload_kernels = &preload_pack_kernels;
  return api;
}

}  // namespace

std::string error_name(cudaError_t error) { return cudaGetErrorName(error); }

const CudaApi& runtime_table() noexcept {
  static const CudaApi api = fill();
  return api;
}

}  // namespace dlbridge::cuda
