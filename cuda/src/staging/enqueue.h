// SPDX-License-Identifier: Apache-2.0
// Enqueues the copies of one tensor between a device and host memory of any kind and layout.
#pragma once

#include "operation/operation.h"

namespace dlbridge::cuda {

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

/// Enqueues the copy of `source` to `target`; the end of the operation does the rest. `pinned`:
/// what is_pinned() says of the host side. To the host with Waits::avoided it waits only if the
/// pool's limit requires it. Returns false if the operation reads a source on the host after the
/// call. Requires: the operation has begun; same shape and dtype.
bool enqueue(Operation& operation, const TensorView& source, const TensorView& target,
             Direction direction, bool pinned, Waits waits);

}  // namespace dlbridge::cuda
