// SPDX-License-Identifier: Apache-2.0
// require: what a function needs of a tensor that its caller passes.
#pragma once

#include <cstdint>
#include <optional>

#include "dlbridge/dtype.h"
#include "dlbridge/export.h"
#include "dlbridge/tensor_view.h"

namespace dlbridge {

struct Requirements {
  std::optional<DType> dtype = std::nullopt;  ///< none: any
  int32_t ndim = -1;                          ///< negative: any
  bool row_major = false;                     ///< without gaps between the elements
  bool writable = false;                      ///< Access::unknown does not suffice
  bool host = true;                           ///< the CPU reads the memory: ordinary or pinned
};

/// Throws Error (unsupported_device, unsupported_dtype, shape_mismatch, invalid_argument of field
/// "strides", read_only) for the first requirement that `view` does not meet. The message names a
/// call of the Python package that works. Allocates nothing otherwise.
DLBRIDGE_API void require(const TensorView& view, const Requirements& wanted);

}  // namespace dlbridge
