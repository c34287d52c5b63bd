// SPDX-License-Identifier: Apache-2.0
// Enqueues the copies of one tensor between a device and host memory of any kind and layout.
#pragma once

#include "operation/operation.h"

namespace dlbridge::cuda {

/// Whether the calling thread may wait for copies.
enum class Waits : uint8_t { allowed, avoided };

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
