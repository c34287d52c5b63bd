// SPDX-License-Identifier: Apache-2.0
#define DLBRIDGE_KERNELS baseline
#define DLBRIDGE_LANES 1
#include "copy_kernels_body.h"

namespace dlbridge {

const CopyKernels& copy_kernels() noexcept {
#if defined(__x86_64__) && !defined(DLBRIDGE_BASELINE_KERNELS)  // a test defines it
  static const CopyKernels& chosen =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") ? avx2::kernels
                                                                       : baseline::kernels;
  return chosen;
#else
  return baseline::kernels;
#endif
}

}  // namespace dlbridge
