// SPDX-License-Identifier: Apache-2.0
// The kernels of kernels.h, compiled once for each instruction set by a file that defines
// DLBRIDGE_KERNELS (a namespace) and DLBRIDGE_LANES (16-byte lanes in a vector).
#include "casts.h"
#include "groups.h"
#include "rows.h"
#include "transposed.h"

namespace dlbridge::DLBRIDGE_KERNELS {

#define DLBRIDGE_BY_SIZE(kernel) {kernel<1>, kernel<2>, kernel<4>, kernel<8>}
#define DLBRIDGE_BY_GROUP(kernel, size) {kernel<size, 2>, kernel<size, 3>, kernel<size, 4>}
#define DLBRIDGE_BY_SIZE_AND_GROUP(kernel)                                                   \
  {DLBRIDGE_BY_GROUP(kernel, 1), DLBRIDGE_BY_GROUP(kernel, 2), DLBRIDGE_BY_GROUP(kernel, 4), \
   DLBRIDGE_BY_GROUP(kernel, 8)}

extern const CopyKernels kernels;
const CopyKernels kernels = {rows,
                             DLBRIDGE_BY_SIZE(repeated),
                             DLBRIDGE_BY_SIZE(reversed),
                             DLBRIDGE_BY_SIZE_AND_GROUP(stepped),
                             DLBRIDGE_BY_SIZE(transposed),
                             DLBRIDGE_BY_SIZE_AND_GROUP(split),
                             DLBRIDGE_BY_SIZE_AND_GROUP(joined),
                             any,
                             converter};

}  // namespace dlbridge::DLBRIDGE_KERNELS
