// SPDX-License-Identifier: Apache-2.0
// The real table: the CUDA driver, looked up by name, so that this library needs no libcuda to
// load, and the pack kernels, which the driver compiles from PTX for the device.
// Filled once, by the first caller. Without a driver its functions return an error.
#include <dlfcn.h>

#include <array>
#include <mutex>
#include <string>

#include "kernels/pack_body.h"
#include "runtime/cuda_api.h"
#include "runtime/cuda_error.h"

struct CUfunc_st;
struct CUkern_st;
struct CUlib_st;

namespace dlbridge::cuda {

namespace {

using CUfunction = CUfunc_st*;
using CUkernel = CUkern_st*;
using CUlibrary = CUlib_st*;

// Stands in for a function that no driver offers.
template <class... Arguments>
CUresult absent(Arguments...) {
  return CUDA_ERROR_NOT_INITIALIZED;
}

// Loading the driver's library starts nothing in it.
template <class... Arguments>
void find(CUresult (*&function)(Arguments...), const char* symbol) noexcept {
  static void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);  // stays loaded
  void* const found = driver != nullptr ? dlsym(driver, symbol) : nullptr;
  function = found != nullptr ? reinterpret_cast<CUresult (*)(Arguments...)>(found)
                              : &absent<Arguments...>;
}

// The kernels in the driver's hands. A library belongs to no context: each loads what it launches.
class PackKernels {
 public:
  static PackKernels& get() noexcept {
    static PackKernels kernels;
    return kernels;
  }

  /// Loads every kernel into the current context.
  CUresult load() {
    const std::lock_guard lock(mutex_);
    CUresult answer = CUDA_SUCCESS;
    if (library_ == nullptr)
      answer =
          library_load_data_(&library_, kPackKernelsPtx, nullptr, nullptr, 0, nullptr, nullptr, 0);
    for (size_t i = 0; i < kernels_.size() && answer == CUDA_SUCCESS; ++i) {
      CUfunction loaded = nullptr;
      // Not again for another device: launches read it meanwhile.
      if (kernels_[i] == nullptr)
        answer = library_get_kernel_(&kernels_[i], library_, pack_kernel_name(i).c_str());
      if (answer == CUDA_SUCCESS) answer = kernel_get_function_(&loaded, kernels_[i]);
    }
    return answer;
  }

  /// Requires: load() succeeded; otherwise an error.
  template <class Params>
  CUresult launch(size_t kernel, const Params& params, int64_t blocks, CUstream stream) {
    Params copied = params;  // the driver takes a pointer to what it copies, not to const
    void* arguments[] = {&copied};
    if (kernels_[kernel] == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
    return launch_kernel_(kernels_[kernel], static_cast<unsigned>(blocks), 1, 1, kPackThreads, 1, 1,
                          0, stream, arguments, nullptr);
  }

  static constexpr size_t kWidths = 5;  // of 1, 2, 4, 8 and 16 bytes
  static constexpr size_t kGather = 3 * kWidths;

 private:
  PackKernels() noexcept {
    find(library_load_data_, "cuLibraryLoadData");
    find(library_get_kernel_, "cuLibraryGetKernel");
    find(kernel_get_function_, "cuKernelGetFunction");
    find(launch_kernel_, "cuLaunchKernel");
  }

  std::mutex mutex_;  // held while the kernels are loaded
  CUlibrary library_ = nullptr;
  std::array<CUkernel, kPackKernels> kernels_{};
  CUresult (*library_load_data_)(CUlibrary*, const void*, int*, void**, unsigned, int*, void**,
                                 unsigned);
  CUresult (*library_get_kernel_)(CUkernel*, CUlibrary, const char*);
  CUresult (*kernel_get_function_)(CUfunction*, CUkernel);
  // Takes a kernel in the place of a function.
  CUresult (*launch_kernel_)(CUkernel, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                             unsigned, CUstream, void**, void**);
};

// More blocks than any device runs at once; the rest is the loop in the body.
constexpr int64_t kMaxBlocks = 8192;

CUresult launch_pack_kernel(KernelId kernel, const PackParams& params, CUstream stream) {
  size_t width = 0;
  while (width < PackKernels::kWidths && 1 << width != params.element_bytes) ++width;
  if (width == PackKernels::kWidths || kernel == KernelId::gather ||
      (kernel == KernelId::transpose && params.rank < 2))
    return CUDA_ERROR_INVALID_VALUE;
  if (params.count <= 0) return CUDA_SUCCESS;
  size_t kind = counts_in_32_bits(params) ? 0 : 1;
  int64_t blocks = (params.count - 1) / kPackThreads + 1;
  if (kernel == KernelId::transpose) {
    kind = 2;
    blocks = Tiling(params).count;
  }
  return PackKernels::get().launch(kind * PackKernels::kWidths + width, params,
                                   blocks < kMaxBlocks ? blocks : kMaxBlocks, stream);
}

CUresult launch_gather_kernel(const GatherParams& params, CUstream stream) {
  if (params.count < 0 || params.count > GatherParams::kMaxRuns) return CUDA_ERROR_INVALID_VALUE;
  if (params.count == 0) return CUDA_SUCCESS;
  return PackKernels::get().launch(PackKernels::kGather, params, params.count, stream);
}

CudaApi fill() noexcept {
  CudaApi api{};
#define DRIVER(member, symbol, parameters) find(api.member, #symbol);
#include "runtime/cuda_api.def"
#undef DRIVER
  api.launch = &launch_pack_kernel;
  api.gather = &launch_gather_kernel;
  api.preload_kernels = [] { return PackKernels::get().load(); };
  return api;
}

}  // namespace

std::string pack_kernel_name(size_t index) {
  constexpr const char* kKinds[] = {"strided_", "long_", "transpose_"};
  if (index == PackKernels::kGather) return "gather";
  return kKinds[index / PackKernels::kWidths] + std::to_string(1 << index % PackKernels::kWidths);
}

const CudaApi& driver_table() noexcept {
  static const CudaApi api = fill();
  return api;
}

}  // namespace dlbridge::cuda
