// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/require.h"

#include <string>

#include "dlbridge/layout.h"

namespace dlbridge {
namespace {

std::string list(std::span<const int64_t> values) {
  std::string text;
  for (const int64_t value : values) text += (text.empty() ? "" : ", ") + std::to_string(value);
  return "(" + text + (values.size() == 1 ? ",)" : ")");
}

}  // namespace

void require(const TensorView& view, const Requirements& wanted) {
  if (wanted.host && !Device(view.device).is_host()) {
    throw Error(ErrorCode::unsupported_device, "device",
                "device is " + Device(view.device).name() +
                    "; expected host memory: pass dlbridge.to_numpy(x, device=\"cpu\")");
  }
  if (wanted.dtype && !(*wanted.dtype == DType(view.dtype))) {
    throw Error(ErrorCode::unsupported_dtype, "dtype",
                "dtype is " + DType(view.dtype).name() + "; expected " + wanted.dtype->name() +
                    ": pass dlbridge.to_numpy(x, dtype=\"" + wanted.dtype->name() + "\")");
  }
  if (wanted.ndim >= 0 && wanted.ndim != view.ndim) {
    throw Error(ErrorCode::shape_mismatch, "shape",
                "shape is " + list(view.extents()) + "; expected " + std::to_string(wanted.ndim) +
                    (wanted.ndim == 1 ? " dimension" : " dimensions") + ": reshape x");
  }
  if (wanted.row_major && !is_contiguous(view)) {
    throw Error(ErrorCode::invalid_argument, "strides",
                "strides are " + list(view.stride_elements()) +
                    "; expected row-major elements without gaps: pass "
                    "dlbridge.to_numpy(x, order=\"C\")");
  }
  if (wanted.writable && view.access != Access::writable) {
    throw Error(ErrorCode::read_only, "flags",
                "the memory is read-only; expected writable memory: pass "
                "dlbridge.to_numpy(x, copy=True)");
  }
}

}  // namespace dlbridge
