// SPDX-License-Identifier: Apache-2.0
// The pack kernels: the bodies of pack_body.h as __global__ functions, one for each unit that a
// thread moves, and their launch. The only file that nvcc compiles.
#include "kernels/pack_body.h"
#include "kernels/pack_kernels.h"

namespace dlbridge::cuda {
namespace {

// More blocks than any device runs at once; the rest is the loop in the body.
constexpr int64_t kMaxBlocks = 8192;

struct DevicePhase {
  template <class Work>
  __device__ __forceinline__ void operator()(const Work& work) const {
    work(threadIdx.x);
    __syncthreads();
  }
};

template <class Unit, class Index>
__global__ void __launch_bounds__(kPackThreads)
    strided_kernel(const __grid_constant__ PackParams params) {
  copy_strided<Unit, Index>(params, int64_t{blockIdx.x} * kPackThreads + threadIdx.x,
                            int64_t{gridDim.x} * kPackThreads);
}

template <class Unit>
__global__ void __launch_bounds__(kPackThreads)
    transpose_kernel(const __grid_constant__ PackParams params) {
  __shared__ Tile<Unit> tile;
  transpose_block<Unit>(params, tile, blockIdx.x, gridDim.x, DevicePhase());
}

__global__ void __launch_bounds__(kPackThreads)
    gather_kernel(const __grid_constant__ GatherParams params) {
  gather_run(params.runs[blockIdx.x], threadIdx.x);
}

using Kernel = void (*)(PackParams);

struct UnitKernels {
  int32_t element_bytes;
  Kernel strided;
  Kernel strided_long;  // counts in 64 bits
  Kernel transpose;
};

template <class Unit>
constexpr UnitKernels kernels_of() {
  return {sizeof(Unit), strided_kernel<Unit, uint32_t>, strided_kernel<Unit, uint64_t>,
          transpose_kernel<Unit>};
}

constexpr UnitKernels kKernels[] = {kernels_of<uint8_t>(), kernels_of<uint16_t>(),
                                    kernels_of<uint32_t>(), kernels_of<uint64_t>(),
                                    kernels_of<Unit16>()};

const UnitKernels* kernels_for(int32_t element_bytes) {
  for (const UnitKernels& kernels : kKernels) {
    if (kernels.element_bytes == element_bytes) return &kernels;
  }
  return nullptr;
}

template <class Params>
const void* address_of(void (*kernel)(Params)) {
  return reinterpret_cast<const void*>(kernel);
}

cudaError_t load(const void* kernel) {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, kernel);
}

}  // namespace

cudaError_t launch_pack_kernel(KernelId kernel, const PackParams& params, cudaStream_t stream) {
  const UnitKernels* kernels = kernels_for(params.element_bytes);
  if (kernels == nullptr || kernel == KernelId::gather ||
      (kernel == KernelId::transpose && params.rank < 2))
    return cudaErrorInvalidValue;
  if (params.count <= 0) return cudaSuccess;
  Kernel chosen = counts_in_32_bits(params) ? kernels->strided : kernels->strided_long;
  int64_t blocks = (params.count - 1) / kPackThreads + 1;
  if (kernel == KernelId::transpose) {
    chosen = kernels->transpose;
    blocks = Tiling(params).count;
  }
  PackParams copied = params;  // the runtime takes a pointer to what it copies, not to const
  void* arguments[] = {&copied};
  return cudaLaunchKernel(address_of(chosen),
                          dim3(static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks)),
                          dim3(kPackThreads), arguments, 0, stream);
}

cudaError_t launch_gather_kernel(const GatherParams& params, cudaStream_t stream) {
  if (params.count < 0 || params.count > GatherParams::kMaxRuns) return cudaErrorInvalidValue;
  if (params.count == 0) return cudaSuccess;
  GatherParams copied = params;
  void* arguments[] = {&copied};
  return cudaLaunchKernel(address_of(gather_kernel), dim3(static_cast<unsigned>(params.count)),
                          dim3(kPackThreads), arguments, 0, stream);
}

cudaError_t preload_pack_kernels() {
  for (const UnitKernels& kernels : kKernels) {
    for (Kernel kernel : {kernels.strided, kernels.strided_long, kernels.transpose}) {
      const cudaError_t result = load(address_of(kernel));
      if (result != cudaSuccess) return result;
    }
  }
  return load(address_of(gather_kernel));
}

}  // namespace dlbridge::cuda
