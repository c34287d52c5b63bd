// SPDX-License-Identifier: Apache-2.0
#include "staging/checks.h"

#include <string>

#include "copy/copy_plan.h"
#include "dlbridge/copy.h"
#include "dlbridge/layout.h"

namespace dlbridge::cuda {

void require_device_memory(const TensorView& view, const char* field) {
  if (Device(view.device).is_cuda()) return;
  throw Error(
      ErrorCode::unsupported_device, field,
      std::string(field) + " is on " + Device(view.device).name() +
          "; expected memory of a CUDA device" +
          (Device(view.device).is_host() ? ": make it there, or copy on the host with copy_host"
                                         : ": copy it to the host first, with its own library"));
}

void require_host_memory(const TensorView& view, const char* field) {
  if (Device(view.device).is_host()) return;
  throw Error(ErrorCode::unsupported_device, field,
              std::string(field) + " is on " + Device(view.device).name() +
                  "; expected host memory" +
                  (Device(view.device).is_cuda() ? ": copy it there with stage_to_host"
                                                 : ": copy it there first, with its own library"));
}

void require_same(const TensorView& source, const TensorView& target) {
  // Both count as host memory: managed memory has one address on both sides.
  TensorView from = source;
  TensorView to = target;
  from.device = to.device = Device(DeviceType::cpu);
  require_copyable(from, to);
  // Refuses packed sub-byte elements without addresses.
  if (DType(source.dtype).is_subbyte() && !source.subbyte_padded)
    static_cast<void>(plan_copy(source, target));
}

bool is_pinned(Engine& engine, const TensorView& view) {
  const auto range = byte_range(view.extents(), view.stride_elements(), view.itemsize());
  if (!range || range->after == 0) return false;
  const auto* address = static_cast<const std::byte*>(view.data);
  const auto* first = address - range->before;
  if (engine.pool().holds(first)) return true;
  const PointerAttributes found = engine.attributes_of(first);
  if (found.kind == MemoryKind::device) {
    throw Error(ErrorCode::invalid_device, "data",
                "data is memory of cuda:" + std::to_string(found.device) +
                    "; the tensor says that it is on " + Device(view.device).name() +
                    ": fix the producer");
  }
  return found.kind == MemoryKind::pinned &&
         engine.attributes_of(address + range->after - 1).kind == MemoryKind::pinned;
}

}  // namespace dlbridge::cuda
