// SPDX-License-Identifier: Apache-2.0
// The pack kernels: the bodies of pack_body.h as __global__ functions, one for each unit that a
// thread moves. scripts/ptx compiles this file to pack_kernels.ptx, which the driver compiles for
// the device; driver_table.cpp launches them.
#include "kernels/pack_body.h"

namespace dlbridge::cuda {
namespace {

struct DevicePhase {
  template <class Work>
  __device__ __forceinline__ void operator()(const Work& work) const {
    work(threadIdx.x);
    __syncthreads();
  }
};

__device__ __forceinline__ int64_t first_element() {
  return int64_t{blockIdx.x} * kPackThreads + threadIdx.x;
}

__device__ __forceinline__ int64_t all_threads() { return int64_t{gridDim.x} * kPackThreads; }

}  // namespace

// The names are those that driver_table.cpp asks for.
#define DLBRIDGE_KERNEL extern "C" __global__ void __launch_bounds__(kPackThreads)
#define DLBRIDGE_KERNELS_OF(bytes, Unit)                                         \
  DLBRIDGE_KERNEL strided_##bytes(const __grid_constant__ PackParams params) {   \
    copy_strided<Unit, uint32_t>(params, first_element(), all_threads());        \
  }                                                                              \
  DLBRIDGE_KERNEL long_##bytes(const __grid_constant__ PackParams params) {      \
    copy_strided<Unit, uint64_t>(params, first_element(), all_threads());        \
  }                                                                              \
  DLBRIDGE_KERNEL transpose_##bytes(const __grid_constant__ PackParams params) { \
    __shared__ Tile<Unit> tile;                                                  \
    transpose_block<Unit>(params, tile, blockIdx.x, gridDim.x, DevicePhase());   \
  }

DLBRIDGE_KERNELS_OF(1, uint8_t)
DLBRIDGE_KERNELS_OF(2, uint16_t)
DLBRIDGE_KERNELS_OF(4, uint32_t)
DLBRIDGE_KERNELS_OF(8, uint64_t)
DLBRIDGE_KERNELS_OF(16, Unit16)

DLBRIDGE_KERNEL gather(const __grid_constant__ GatherParams params) {
  gather_run(params.runs[blockIdx.x], threadIdx.x);
}

}  // namespace dlbridge::cuda
