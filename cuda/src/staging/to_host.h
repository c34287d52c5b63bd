// To host: how a device tensor comes into host memory of any kind and layout.
#pragma once

#include "operation/operation.h"

namespace dlbridge::cuda {

/// Whether the calling thread may wait for copies in between.
enum class Waits : uint8_t { allowed, avoided };

/// Enqueues what brings `source` into `target`; the rest happens when the operation is settled.
/// With Waits::avoided it waits only where the pool's limit allows no other way. Requires: the
/// operation has begun; same shape and dtype; `pinned` says what is_pinned() does of the target.
void enqueue_to_host(Operation& operation, const TensorView& source, const TensorView& target,
                     bool pinned, Waits waits);

}  // namespace dlbridge::cuda
