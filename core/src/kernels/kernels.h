// SPDX-License-Identifier: Apache-2.0
// The inner two loops of a strided copy. One table of kernels is compiled for the baseline of the
// target architecture, one for AVX2 and one for AVX-512; the CPU decides once which is used.
#pragma once

#include <cstdint>

#include "dlbridge/layout.h"

namespace dlbridge {

/// Two nested loops over elements of `itemsize` bytes. `inner` is walked first in the destination;
/// its dst stride is positive. Kernels do not follow pointers outside the elements.
struct CopyBlock {
  char* dst;
  const char* src;
  LoopDim inner;
  LoopDim outer;
  int64_t itemsize;
  /// Non-temporal stores: the destination is larger than the caches.
  bool stream;
};

using CopyKernel = void (*)(const CopyBlock&) noexcept;

/// Casts `count` contiguous elements at any addresses. Returns false where a value is left to
/// frameworks; some elements may be written then.
using Converter = bool (*)(char* dst, const char* src, int64_t count) noexcept;

/// Kernels by log2 of the item size (1, 2, 4, 8 bytes), where not said otherwise.
struct CopyKernels {
  /// inner: both strides are the item size, of any size.
  CopyKernel rows;
  /// inner: source stride is 0; the destination is dense.
  CopyKernel repeated[4];
  /// inner: source stride is minus the item size; the destination is dense.
  CopyKernel reversed[4];
  /// inner: source stride is 2, 3 or 4 items (second index: 0, 1, 2) or minus that; the destination
  /// is dense.
  CopyKernel stepped[4][3];
  /// inner: dense destination, any source stride. outer: source stride is the item size.
  CopyKernel transposed[4];
  /// inner: dense destination, source stride is n items or minus that. outer: n = 2, 3, 4 (second
  /// index: 0, 1, 2) items, source stride is the item size.
  CopyKernel split[4][3];
  /// inner: n = 2, 3, 4 items, dense destination. outer: destination stride is n items, source
  /// stride is the item size or minus that.
  CopyKernel joined[4][3];
  /// Any strides, any item size.
  CopyKernel (*any)(int64_t itemsize) noexcept;
  /// Null for a pair of types that only frameworks cast.
  Converter (*converter)(DLDataType from, DLDataType to) noexcept;
};

namespace baseline {
extern const CopyKernels kernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const CopyKernels kernels;
}
namespace avx512 {
extern const CopyKernels kernels;
}
#endif

/// The kernels for this CPU.
const CopyKernels& copy_kernels() noexcept;

}  // namespace dlbridge
