// SPDX-License-Identifier: Apache-2.0
// Compiled with -mavx2: nothing here runs before copy_kernels() has asked the CPU.
#define DLBRIDGE_KERNELS avx2
#define DLBRIDGE_LANES 2
#include "table.h"
