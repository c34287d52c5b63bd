// SPDX-License-Identifier: Apache-2.0
// The device slots of torch's adapters, by torch's own Python functions (dlbridge/_torch_gpu.py):
// the current stream, its allocator, and the streams that use its memory.
#pragma once

#include "bridge/adapter.h"

namespace dlbridge::python {

/// Fills current_stream, has_device, device_empty, record_stream and materialize.
void add_device_slots(Adapter& adapter) noexcept;

}  // namespace dlbridge::python
