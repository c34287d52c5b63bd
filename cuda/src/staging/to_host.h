// SPDX-License-Identifier: Apache-2.0
// To host: copies a device tensor into host memory of any kind and layout.
#pragma once

#include "operation/operation.h"

namespace dlbridge::cuda {

/// Whether the calling thread may wait for copies.
enum class Waits : uint8_t { allowed, avoided };

/// Enqueues the copy of `source` to `target`; completion of the operation does the rest. With
/// Waits::avoided it waits only if the pool's limit requires it. Requires: the
/// operation has begun; same shape and dtype; `pinned` says what is_pinned() does of the target.
void enqueue_to_host(Operation& operation, const TensorView& source, const TensorView& target,
                     bool pinned, Waits waits);

}  // namespace dlbridge::cuda
