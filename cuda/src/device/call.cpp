// SPDX-License-Identifier: Apache-2.0
#include "device/call.h"

#include <algorithm>
#include <string>

namespace dlbridge::cuda {
namespace {

DeviceContext& device_of(std::span<const TensorView> views) {
  const auto first = std::ranges::find_if_not(views, &TensorView::is_empty);
  return Engine::get().device(first->device.device_id);
}

}  // namespace

Call::Call(DeviceContext& found, Stream given) : Call(found) { stream = checked(given); }

Call::Call(std::span<const TensorView> on_device, Stream given) : Call(device_of(on_device)) {
  // Small tensors of a framework lie in few allocations: each is asked about once.
  std::span<const std::byte> asked;
  for (const TensorView& view : on_device) {
    if (view.is_empty()) continue;
    if (view.device.device_id != device.index()) {
      throw Error(ErrorCode::invalid_device, "device",
                  "the batch has tensors of cuda:" + std::to_string(device.index()) +
                      " and of cuda:" + std::to_string(view.device.device_id) +
                      "; expected one device: make a batch of each");
    }
    const auto* const address = static_cast<const std::byte*>(view.data);
    if (!asked.empty() && address >= &asked.front() && address <= &asked.back()) continue;
    require_address(view);
    void* begin = nullptr;
    size_t bytes = 0;
    if (on_device.size() > 1 &&
        engine.api().mem_get_address_range(&begin, &bytes, address) == CUDA_SUCCESS)
      asked = {static_cast<const std::byte*>(begin), bytes};
  }
  stream = checked(given);
}

void Call::require_address(const TensorView& view) const {
  const PointerAttributes attributes = attributes_of(engine.api(), view.data);
  if (device.fails_with(attributes.answer)) check(attributes.answer, "cuPointerGetAttributes");
  const bool on_device = attributes.kind == MemoryKind::device;
  if (!on_device && attributes.kind != MemoryKind::managed) {
    throw Error(
        ErrorCode::invalid_device, "data",
        "data is host memory, or memory that CUDA does not know; the tensor says that it is "
        "on " +
            Device(view.device).name() + ": fix the producer");
  }
  if (on_device && attributes.device != view.device.device_id) {
    throw Error(ErrorCode::invalid_device, "device_id",
                "data is on cuda:" + std::to_string(attributes.device) +
                    "; the tensor says that it is on " + Device(view.device).name() +
                    ": fix the producer");
  }
}

CheckedStream Call::checked(Stream given) const {
  const auto number = reinterpret_cast<intptr_t>(given.handle);
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::stream_invalid, "stream",
                "stream is " + std::to_string(number) + "; " + why);
  };
  const auto require_known = [&](CUresult answer, const char* call) {
    if (device.fails_with(answer)) check(answer, call);
    if (answer != CUDA_SUCCESS) refuse("CUDA does not know it (" + error_name(answer) + ")");
  };
  const auto refuse_device = [&](int owner) {
    throw Error(ErrorCode::stream_invalid, "stream",
                "the stream belongs to cuda:" + std::to_string(owner) + ", the tensor is on cuda:" +
                    std::to_string(device.index()) + ": pass a stream of the tensor's device");
  };
  if (given.device.device_id != device.index()) refuse_device(given.device.device_id);
  if (number == kNoSync) return {nullptr, false};
  if (number == 0) {
    refuse(
        "0 means either of two default streams: pass 1 for the legacy one, 2 for the per-thread "
        "one");
  }
  if (number < 0) refuse("expected 1, 2, -1 for no ordering, or a CUstream");
  auto* handle = static_cast<CUstream>(given.handle);
  const Capture capture = capture_of(engine.api(), handle);
  if (capture.active) {
    throw Error(ErrorCode::stream_capturing, "stream",
                "the stream is being captured into a CUDA graph, which cannot hold a staging: "
                "stage before or after the capture");
  }
  require_known(capture.answer, "cuStreamIsCapturing");
  const char* const foreign_context =
      "it belongs to a context that is not the device's primary one, as cuCtxCreate and green "
      "contexts make them: pass a stream of the primary context";
  if (number <= kPerThreadStream) {
    // In another context of this device, 1 and 2 are other streams than those of the primary one.
    const CUcontext callers = guard_.callers();
    if (callers != nullptr && callers != device.context() &&
        engine.device_of_context(callers) == device.index())
      refuse(foreign_context);
    return {handle, true};
  }
  CUcontext context = nullptr;
  require_known(engine.api().stream_get_ctx(handle, &context), "cuStreamGetCtx");
  if (context != device.context()) {
    const int owner = engine.device_with_primary(context);
    if (owner >= 0) refuse_device(owner);
    refuse(foreign_context);
  }
  return {handle, true};
}

}  // namespace dlbridge::cuda
