// SPDX-License-Identifier: Apache-2.0
// Checks: the requirements of a staging on its views.
#pragma once

#include "device/engine.h"

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

}  // namespace dlbridge::cuda
