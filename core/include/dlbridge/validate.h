// Validation of descriptors that come from elsewhere: nothing in them is trusted.
//
// Source of the rules: DLPack specification and the defects of its implementations. Every field is
// checked before any pointer in the descriptor is followed, except `shape` and `strides`, which are
// read once ndim is in range.
#pragma once

#include <cstdint>

#include "dlbridge/dlpack.h"
#include "dlbridge/export.h"
#include "dlbridge/loan.h"

namespace dlbridge {

/// The highest rank accepted from a foreign descriptor.
inline constexpr int32_t kMaxForeignRank = 64;

/// What a descriptor says about itself outside of its DLTensor.
struct DescriptorTraits {
  Access access = Access::unknown;
  bool is_copied = false;
  bool subbyte_padded = false;
};

/// Checks `tensor` and writes its description into `loan` (which gets no owner): shape and strides
/// are copied, null strides become compact ones, byte_offset is folded into the pointer where the
/// device has addresses, unknown flag bits are dropped. The descriptor is only read. Throws Error
/// (invalid_ndim, null_shape, negative_extent, extent_overflow, unknown_dtype, unknown_device,
/// stride_overflow, null_data, address_overflow, packed_subbyte), std::bad_alloc; the loan's
/// description is then undefined.
DLBRIDGE_API void read_descriptor(const DLTensor& tensor, const DescriptorTraits& traits,
                                  Loan& loan);

/// Checks what a prototype is good for (dtype, device, ndim and shape: DLPack's exchange table asks
/// an allocator to look at nothing else) and writes it into `loan`, with compact strides and no
/// data. Throws Error as read_descriptor, std::bad_alloc.
DLBRIDGE_API void read_prototype(const DLTensor& prototype, Loan& loan);

}  // namespace dlbridge
