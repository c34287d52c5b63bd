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

void require_one_device(Engine& engine, std::span<const TensorView> views, DeviceContext& device) {
  // Small tensors of a framework lie in few allocations: each is asked about once.
  std::span<const std::byte> checked;
  for (const TensorView& view : views) {
    if (view.is_empty()) continue;
    if (view.device.device_id == device.index()) {
      const auto* const address = static_cast<const std::byte*>(view.data);
      if (!checked.empty() && address >= &checked.front() && address <= &checked.back()) continue;
      engine.require_address(view, device);
      if (views.size() > 1) checked = engine.allocation_of(address);
      continue;
    }
    const DeviceContext& found = engine.device_of(view);
    throw Error(ErrorCode::invalid_device, "device",
                "the batch has tensors of cuda:" + std::to_string(device.index()) +
                    " and of cuda:" + std::to_string(found.index()) +
                    "; expected one device: make a batch of each");
  }
}

bool is_pinned(const Engine& engine, const TensorView& view) {
  const auto range = byte_range(view.extents(), view.stride_elements(), view.itemsize());
  if (!range || range->after == 0) return false;
  const auto* first = static_cast<const std::byte*>(view.data) - range->before;
  const HostPlace place =
      engine.host_place(first, static_cast<size_t>(range->before + range->after));
  if (place.device >= 0) {
    throw Error(ErrorCode::invalid_device, "data",
                "data is memory of cuda:" + std::to_string(place.device) +
                    "; the tensor says that it is on " + Device(view.device).name() +
                    ": fix the producer");
  }
  return place.pinned;
}

}  // namespace dlbridge::cuda
