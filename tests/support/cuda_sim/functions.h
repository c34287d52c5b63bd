// SPDX-License-Identifier: Apache-2.0
// The functions of the table, one for each member of CudaApi, of the same name and type.
#pragma once

#include <type_traits>

#include "runtime/cuda_api.h"

namespace dlbridge::cuda_sim::functions {

template <class Pointer>
using Function = std::remove_pointer_t<Pointer>;

#define RUNTIME(member, symbol) Function<decltype(cuda::CudaApi::member)> member;
#define DRIVER(member, symbol, version) Function<decltype(cuda::CudaApi::member)> member;
#include "runtime/cuda_api.def"
#undef RUNTIME
#undef DRIVER
Function<decltype(cuda::CudaApi::launch)> launch;
Function<decltype(cuda::CudaApi::gather)> gather;
Function<decltype(cuda::CudaApi::preload_kernels)> preload_kernels;

}  // namespace dlbridge::cuda_sim::functions
