// SPDX-License-Identifier: Apache-2.0
#define DLBRIDGE_KERNELS baseline
#define DLBRIDGE_LANES 1
#include "table.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

// Tests define another: 0, the baseline; 1, AVX2; 2, AVX-512.
#if !defined(DLBRIDGE_BEST_KERNELS)
#define DLBRIDGE_BEST_KERNELS 2
#endif

namespace dlbridge {

#if defined(__x86_64__)
const CopyKernels& copy_kernels() noexcept {
  static const CopyKernels& chosen = []() -> const CopyKernels& {
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    const bool halves = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
    if (!halves || !__builtin_cpu_supports("avx2") || DLBRIDGE_BEST_KERNELS < 1)
      return baseline::kernels;
    // CPUs with VBMI have the rest of AVX-512 that is used, and do not slow down for it.
    const bool wide = __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
    return wide && DLBRIDGE_BEST_KERNELS > 1 ? avx512::kernels : avx2::kernels;
  }();
  return chosen;
}
#else
const CopyKernels& copy_kernels() noexcept { return baseline::kernels; }
#endif

}  // namespace dlbridge
