// Checks: what a staging requires of the views it is given, before anything is done with them.
#pragma once

#include <span>

#include "device/engine.h"

namespace dlbridge::cuda {

/// Throws Error (unsupported_device): expected memory of a CUDA device, managed memory included.
void require_device_memory(const TensorView& view, const char* field);

/// Throws Error (unsupported_device): expected memory that the host reads and writes.
void require_host_memory(const TensorView& view, const char* field);

/// Same shape, dtype and padding, and `target` writable without overlap in itself. Throws Error
/// (unsupported_dtype, shape_mismatch, read_only, overlap, packed_subbyte).
void require_same(const TensorView& source, const TensorView& target);

/// All views that have elements are on `device`, and their addresses, too. Throws Error
/// (invalid_device).
void require_one_device(Engine& engine, std::span<const TensorView> views,
                        const DeviceContext& device);

/// Whether all bytes of a host view are page-locked, so that a device copies from and to them
/// directly. Throws Error (invalid_device) where the address is device memory.
bool is_pinned(const Engine& engine, const TensorView& view);

}  // namespace dlbridge::cuda
