// SPDX-License-Identifier: Apache-2.0
// Validation of foreign descriptors: docs/reference/validation.md.
//
// Every field is checked before a pointer in the descriptor is followed, except `shape` and
// `strides`, which are read once ndim is in range.
#pragma once

#include <cstdint>

#include "dlbridge/dlpack.h"
#include "dlbridge/export.h"
#include "dlbridge/loan.h"

namespace dlbridge {

/// The highest rank accepted from a foreign descriptor.
inline constexpr int32_t kMaxForeignRank = 64;

/// The flags of a descriptor, which lie outside of its DLTensor.
struct DescriptorTraits {
  Access access = Access::unknown;
  bool is_copied = false;
  bool subbyte_padded = false;
};

/// Checks `tensor` and writes its description into `loan`, which owns nothing: copies shape and
/// strides, turns null strides into compact ones, adds byte_offset to the pointer where the device
/// has addresses. The descriptor is only read. Throws Error
/// (invalid_ndim, null_shape, negative_extent, extent_overflow, unknown_dtype, unknown_device,
/// stride_overflow, null_data, address_overflow, packed_subbyte), std::bad_alloc; the loan's
/// description is then undefined.
DLBRIDGE_API void read_descriptor(const DLTensor& tensor, const DescriptorTraits& traits,
                                  Loan& loan);

/// Checks dtype, device, ndim and shape of a prototype, the only fields that DLPack's exchange
/// table lets an allocator read, and writes them into `loan`, with compact strides and no data.
/// Throws as read_descriptor.
DLBRIDGE_API void read_prototype(const DLTensor& prototype, Loan& loan);

}  // namespace dlbridge
