// SPDX-License-Identifier: Apache-2.0
// Strided copies between host memories: no framework, no Python, no dtype conversion.
#pragma once

#include "dlbridge/export.h"
#include "dlbridge/loan.h"
#include "dlbridge/tensor_view.h"

namespace dlbridge {

/// Copies the elements of `src` into `dst`, in any layouts; large copies use several threads.
/// Requires: same shape and itemsize (whole bytes), host memory, dst writable, without
/// overlap in itself or with src. Thread: any; takes no lock. Throws std::bad_alloc; dst is then
/// untouched.
DLBRIDGE_API void copy_host(const TensorView& src, const TensorView& dst);

/// Checks what copy_host requires of two validated views. Throws Error: unsupported_device (not
/// host memory), unsupported_dtype (the dtypes or their padding differ), shape_mismatch, read_only
/// (dst; unknown access counts as read-only), overlap (dst with itself or with src).
DLBRIDGE_API void require_copyable(const TensorView& src, const TensorView& dst);

/// The same for memory on any device, without unsupported_device. Finds overlap of host memory, and
/// of memory on one device.
DLBRIDGE_API void require_same_elements(const TensorView& src, const TensorView& dst);

/// Repacks float4 between one element a byte (dtype (17,4,1), padded) and two a byte ((17,4,2)).
/// The side with pairs has half the extent in the last dimension. The first element of a pair is
/// the low nibble. Requires: host memory, these shapes, a writable dst.
DLBRIDGE_API void repack_float4(const TensorView& src, const TensorView& dst);

/// Allocates uninitialised host memory, 64-byte aligned, with shape, dtype and padding of `like`
/// and dense strides in the same dimension order. The view is writable and marked IS_COPIED. Throws
/// std::bad_alloc.
DLBRIDGE_API Loan allocate_like(const TensorView& like);

}  // namespace dlbridge
