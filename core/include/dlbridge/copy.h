// SPDX-License-Identifier: Apache-2.0
// Strided copies between host memories: no framework, no Python, no dtype conversion.
#pragma once

#include "dlbridge/export.h"
#include "dlbridge/loan.h"
#include "dlbridge/tensor_view.h"

namespace dlbridge {

/// Copies the elements of `src` into `dst`, in any layouts; large copies use several threads.
/// Requires: same shape and itemsize (whole bytes), host memory, dst writable, without
/// overlap in itself or with src. `fresh`: dst was never written, so its pages are still to come,
/// and a large copy goes through the caches. Thread: any. Throws std::bad_alloc; dst is then
/// untouched.
DLBRIDGE_API void copy_host(const TensorView& src, const TensorView& dst, bool fresh = false);

/// Copies the elements of `src` into `dst` as copy_host does, casting to the dtype of `dst`.
/// Returns false for what is left to the frameworks: complex and rarer types, a destination without
/// a dimension of neighbours, and a floating-point value that an integer dtype of `dst` cannot hold
/// (some elements of `dst` may be written then). Requires what copy_host does, but for the dtypes.
/// Throws std::bad_alloc; dst is then untouched.
DLBRIDGE_API bool cast_host(const TensorView& src, const TensorView& dst);

/// How many threads a large copy uses, the calling one included: what set_num_threads() was given,
/// else the default, and never more than the CPUs that the calling thread may use now.
DLBRIDGE_API int num_threads() noexcept;

/// Sets num_threads() for the process; 0: the default again. Throws Error (invalid_argument) below
/// 0.
DLBRIDGE_API void set_num_threads(int count);

/// Sets what the default is read from: called before each large copy, in the copying thread. Null:
/// OpenMP's setting where a library of this process has it, else OMP_NUM_THREADS, else as many as
/// CPUs.
DLBRIDGE_API void set_default_num_threads(int (*ask)()) noexcept;

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

/// Describes host memory for a copy of `like`, without an address: dense strides in the same
/// dimension order (row-major where asked for, and for packed sub-byte types), writable, marked
/// IS_COPIED. Throws std::bad_alloc.
DLBRIDGE_API Loan dense_like(const TensorView& like, bool row_major = false);

/// Allocates uninitialised host memory, 64-byte aligned, as dense_like() describes it. Throws
/// std::bad_alloc.
DLBRIDGE_API Loan allocate_like(const TensorView& like);

/// Asks the system for huge pages under new memory of several MiB, before it is written: fewer page
/// faults. Does nothing for less, or where the system has none.
DLBRIDGE_API void advise_huge_pages(void* memory, int64_t bytes) noexcept;

}  // namespace dlbridge
