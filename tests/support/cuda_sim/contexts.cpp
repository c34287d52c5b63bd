// SPDX-License-Identifier: Apache-2.0
// The driver, devices and contexts: what they are, and what the table says of them.
#include <atomic>

#include "call.h"

namespace dlbridge::cuda_sim {

ThreadState& State::thread() {
  static std::atomic<uint64_t> made{0};
  thread_local const uint64_t mine = ++made;
  ThreadState& found = threads[mine];
  found.id = mine;
  return found;
}

CUcontext State::primary_context(int device) const {
  return reinterpret_cast<CUcontext>(uintptr_t{0xC0000000} + 16 * static_cast<uintptr_t>(device));
}

CUcontext State::make_context(int device, bool green) {
  const auto made = reinterpret_cast<CUcontext>(uintptr_t{0xD0000000} + 16 * contexts.size());
  contexts[made] = {device, green};
  return made;
}

DeviceState* State::current(const ThreadState& thread) {
  if (thread.contexts.empty() || thread.contexts.back() == nullptr) return nullptr;
  return &devices.at(contexts.at(thread.contexts.back()).device);
}

void State::make_primary(DeviceState& device) {
  device.active = true;
  device.id = ++context_ids;
}

void State::activate(int device) {
  DeviceState& made = devices.at(device);
  made.used_by_runtime = true;
  if (!made.active) make_primary(made);
}

void State::kill(int device, CUresult code) {
  devices.at(device).dead = code;
  note("cuda:" + std::to_string(device) + " is dead with " + std::to_string(code));
  state_changed().notify_all();
}

void State::lose(int device) {
  note("context of cuda:" + std::to_string(device) + " destroyed");
  DeviceState& lost = devices.at(device);
  lost.dead = CUDA_SUCCESS;
  for (const OperationPtr& operation : all_pending()) {
    if (operation->stream->device != device) continue;
    operation->cancelled = true;
    complete(operation);
  }
  for (StreamState& stream : streams.all) {
    if (stream.device != device) continue;
    // What ran there is over for everybody.
    if (stream.tail != nullptr) host_knows(*stream.tail);
    stream.lost = true;
  }
  for (EventState& event : events.all) event.lost = event.lost || event.device == device;
  for (auto& [begin, allocation] : allocations) {
    if (allocation->device != device || allocation->freed) continue;
    if (allocation->stream_ordered) async_bytes -= allocation->bytes;
    allocation->freed = true;
  }
  std::erase_if(registrations, [&](const auto& item) { return item.second.device == device; });
  std::erase_if(default_streams, [&](const auto& item) { return item.second->device == device; });
  lost.loaded.clear();
  lost.active = false;
  lost.used_by_runtime = false;  // what others have retained is still theirs to release
  state_changed().notify_all();
}

namespace functions {
namespace {

DeviceState& state_of(Caller& caller, CUdevice device) {
  const auto found = caller.state.devices.find(device);
  if (found == caller.state.devices.end()) throw CUDA_ERROR_INVALID_DEVICE;
  return found->second;
}

// Of a context's handle, which is alive.
DeviceState& state_of(Caller& caller, CUcontext context) {
  const auto found = caller.state.contexts.find(context);
  if (found == caller.state.contexts.end())
    caller.refuse(ReportKind::bad_argument, "no context", CUDA_ERROR_INVALID_CONTEXT);
  DeviceState& device = caller.state.devices.at(found->second.device);
  if (!device.active) throw CUDA_ERROR_CONTEXT_IS_DESTROYED;
  return device;
}

}  // namespace

void driver_get_version(Caller& caller, int* version) {
  const Driver driver = caller.state.config.driver;
  *version = driver == Driver::absent ? 0 : driver == Driver::too_old ? 11040 : 13000;
}

void init(Caller& caller, unsigned) {
  const Driver driver = caller.state.config.driver;
  if (driver == Driver::absent) throw CUDA_ERROR_NOT_INITIALIZED;
  if (driver == Driver::no_device) throw CUDA_ERROR_NO_DEVICE;
}

void get_device_count(Caller& caller, int* count) { *count = caller.state.config.devices; }

void device_get_attribute(Caller& caller, int* value, CUdevice_attribute attribute,
                          CUdevice device) {
  *value = caller.state.attributes[{state_of(caller, device).device, attribute}];
}

void ctx_get_current(Caller& caller, CUcontext* context) {
  const auto& stack = caller.thread.contexts;
  *context = stack.empty() ? nullptr : stack.back();
}

void ctx_push_current(Caller& caller, CUcontext context) {
  State& state = caller.state;
  if (context != nullptr) {
    static_cast<void>(state_of(caller, context));
    for (const auto& [id, other] : state.threads) {
      if (state.contexts.at(context).green && id != caller.thread.id && !other.contexts.empty() &&
          other.contexts.back() == context)
        state.report(ReportKind::wrong_context, "a green context is current to two threads");
    }
  }
  caller.thread.contexts.push_back(context);
}

void ctx_pop_current(Caller& caller, CUcontext* context) {
  auto& stack = caller.thread.contexts;
  if (stack.empty())
    caller.refuse(ReportKind::wrong_context, "an empty stack", CUDA_ERROR_INVALID_CONTEXT);
  if (context != nullptr) *context = stack.back();
  stack.pop_back();
}

void ctx_get_id(Caller& caller, CUcontext context, unsigned long long* id) {
  *id = state_of(caller, context).id;
}

void ctx_get_device(Caller& caller, CUdevice* device) {
  const DeviceState* current = caller.state.current(caller.thread);
  if (current == nullptr) throw CUDA_ERROR_INVALID_CONTEXT;
  *device = current->device;
}

void device_primary_ctx_get_state(Caller& caller, CUdevice device, unsigned* flags, int* active) {
  *flags = 0;
  *active = state_of(caller, device).active ? 1 : 0;
}

void device_primary_ctx_retain(Caller& caller, CUcontext* context, CUdevice device) {
  State& state = caller.state;
  DeviceState& wanted = state_of(caller, device);
  check(wanted.dead);
  if (!wanted.active) {
    state.report(ReportKind::context_created,
                 "device_primary_ctx_retain made the context of cuda:" + std::to_string(device));
    state.make_primary(wanted);
  }
  ++wanted.retained;
  *context = state.primary_context(device);
}

void device_primary_ctx_release(Caller& caller, CUdevice device) {
  State& state = caller.state;
  DeviceState& released = state_of(caller, device);
  if (released.retained == 0) {
    if (!released.active) throw CUDA_ERROR_INVALID_CONTEXT;
    caller.refuse(ReportKind::bad_argument, "the context was not retained",
                  CUDA_ERROR_INVALID_CONTEXT);
  }
  if (--released.retained > 0 || released.used_by_runtime) return;
  bool in_use = false;
  state.streams.each_alive(
      [&](const StreamState& each) { in_use = in_use || (each.counted && each.device == device); });
  state.events.each_alive(
      [&](const EventState& each) { in_use = in_use || each.device == device; });
  if (in_use) state.report(ReportKind::context_destroyed, "cuda:" + std::to_string(device));
  state.lose(device);
}

}  // namespace functions
}  // namespace dlbridge::cuda_sim
