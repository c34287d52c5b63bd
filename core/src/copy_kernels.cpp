// SPDX-License-Identifier: Apache-2.0
#define DLBRIDGE_KERNELS baseline
#define DLBRIDGE_LANES 1
#include "copy_kernels_body.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace dlbridge {

const CopyKernels& copy_kernels() noexcept {
#if defined(__x86_64__) && !defined(DLBRIDGE_BASELINE_KERNELS)  // a test defines it
  static const CopyKernels& chosen = []() -> const CopyKernels& {
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    const bool halves = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
    return halves && __builtin_cpu_supports("avx2") ? avx2::kernels : baseline::kernels;
  }();
  return chosen;
#else
  return baseline::kernels;
#endif
}

}  // namespace dlbridge
