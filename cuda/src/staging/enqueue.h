// SPDX-License-Identifier: Apache-2.0
// Checks the views of a staging, and enqueues the copies of one tensor between a device and host
// memory of any kind and layout.
#pragma once

#include "operation/operation.h"

namespace dlbridge::cuda {

/// Throws Error (unsupported_device): expected memory of a CUDA device, managed memory included.
void require_device_memory(const TensorView& view, const char* field);

/// Throws Error (unsupported_device): expected memory that the host reads and writes.
void require_host_memory(const TensorView& view, const char* field);

/// Checks that shape, dtype and padding agree and that `target` is writable without overlap. Throws
/// Error (unsupported_dtype, shape_mismatch, read_only, overlap, packed_subbyte).
void require_same(const TensorView& source, const TensorView& target);

/// Returns true if all bytes of a host view are page-locked. Throws Error (invalid_device) if the
/// address is device memory.
bool is_pinned(Engine& engine, const TensorView& view);

/// Up to this size one pinned block and one host copy are faster than a ring of slots.
inline constexpr int64_t kOneBlockBytes = int64_t{256} << 10;
/// A ring needs two slots of at least this size.
inline constexpr int64_t kSmallestSlot = int64_t{256} << 10;

/// Whether the calling thread may wait for copies.
enum class Waits : uint8_t { allowed, avoided };

/// Describes every element that differs, once: extents of 1 in the place of strides of 0. Requires:
/// not empty.
Loan each_once(const TensorView& view);

// Both require: the operation has begun; same shape and dtype; `pinned` says what is_pinned() does
// of the host side.

/// Enqueues the copy of `source` to `target`; the end of the operation does the rest. With
/// Waits::avoided it waits only if the pool's limit requires it.
void enqueue_to_host(Operation& operation, const TensorView& source, const TensorView& target,
                     bool pinned, Waits waits);

/// Enqueues the copy of `source` to `target`. Returns true if the source may be reused on return,
/// false if it is in use until the operation has ended.
bool enqueue_to_device(Operation& operation, const TensorView& source, const TensorView& target,
                       bool pinned);

}  // namespace dlbridge::cuda
