// SPDX-License-Identifier: Apache-2.0
// Compiled for AVX-512, of which casts and shuffles of bytes make use; see avx2.cpp.
#define DLBRIDGE_KERNELS avx512
#define DLBRIDGE_LANES 2
#include "table.h"
