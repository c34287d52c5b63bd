// SPDX-License-Identifier: Apache-2.0
// Versions, devices and contexts, as the table offers them.
#include "call.h"

namespace dlbridge::cuda_sim {

void fill_table(cuda::CudaApi& table) {
#define DRIVER(member, symbol, parameters) table.member = &functions::member;
#include "runtime/cuda_api.def"
#undef DRIVER
  table.launch = &functions::launch;
  table.gather = &functions::gather;
  table.preload_kernels = &functions::preload_kernels;
}

namespace functions {
namespace {

constexpr int kVersion = 13000;

ContextState& context_of(Caller& caller, int device) {
  const auto found = caller.state.contexts.find(device);
  if (found == caller.state.contexts.end()) throw CUDA_ERROR_INVALID_DEVICE;
  return found->second;
}

// Of a context's handle, which is alive.
ContextState& context_of(Caller& caller, CUcontext context) {
  const int device = caller.state.device_of(context);
  if (device < 0) caller.refuse(ReportKind::bad_argument, "no context", CUDA_ERROR_INVALID_CONTEXT);
  ContextState& found = caller.state.contexts.at(device);
  if (!found.active) throw CUDA_ERROR_CONTEXT_IS_DESTROYED;
  return found;
}

bool anything_lives_in(const State& state, int device) {
  for (const StreamState& stream : state.streams) {
    if (stream.counted && stream.device == device && !stream.destroyed && !stream.lost) return true;
  }
  for (const EventState& event : state.events) {
    if (event.device == device && !event.destroyed && !event.lost) return true;
  }
  return false;
}

}  // namespace

CUresult driver_get_version(int* version) {
  return call("driver_get_version", kNoDriver, [&](Caller& caller) {
    const Driver driver = caller.state.config.driver;
    *version = driver == Driver::absent ? 0 : driver == Driver::too_old ? 11040 : kVersion;
    return CUDA_SUCCESS;
  });
}

CUresult init(unsigned) {
  return call("init", kNoDriver, [&](Caller& caller) {
    const Driver driver = caller.state.config.driver;
    return driver == Driver::absent      ? CUDA_ERROR_NOT_INITIALIZED
           : driver == Driver::no_device ? CUDA_ERROR_NO_DEVICE
                                         : CUDA_SUCCESS;
  });
}

CUresult get_device_count(int* count) {
  *count = 0;
  return call("get_device_count", kNone, [&](Caller& caller) {
    *count = caller.state.config.devices;
    return CUDA_SUCCESS;
  });
}

CUresult device_get_attribute(int* value, CUdevice_attribute attribute, int device) {
  return call("device_get_attribute", kNone, [&](Caller& caller) {
    context_of(caller, device);
    const auto found = caller.state.attributes.find({device, attribute});
    *value = found == caller.state.attributes.end() ? 0 : found->second;
    return CUDA_SUCCESS;
  });
}

CUresult ctx_get_current(CUcontext* context) {
  return driver_call("ctx_get_current", [&](Caller& caller) {
    const auto& stack = caller.thread.contexts;
    *context = stack.empty() ? nullptr : stack.back();
    return CUDA_SUCCESS;
  });
}

CUresult ctx_push_current(CUcontext context) {
  return driver_call("ctx_push_current", [&](Caller& caller) {
    State& state = caller.state;
    if (context != nullptr) {
      context_of(caller, context);
      const auto user = state.user_contexts.find(context);
      if (user != state.user_contexts.end() && user->second.green &&
          state.current_elsewhere(context, caller.thread)) {
        state.report(ReportKind::wrong_context, "a green context is current to two threads");
      }
    }
    caller.thread.contexts.push_back(context);
    return CUDA_SUCCESS;
  });
}

CUresult ctx_pop_current(CUcontext* context) {
  return driver_call("ctx_pop_current", [&](Caller& caller) {
    auto& stack = caller.thread.contexts;
    if (stack.empty())
      caller.refuse(ReportKind::wrong_context, "an empty stack", CUDA_ERROR_INVALID_CONTEXT);
    if (context != nullptr) *context = stack.back();
    stack.pop_back();
    return CUDA_SUCCESS;
  });
}

CUresult ctx_get_id(CUcontext context, unsigned long long* id) {
  return driver_call("ctx_get_id", [&](Caller& caller) {
    *id = context_of(caller, context).id;
    return CUDA_SUCCESS;
  });
}

CUresult ctx_get_device(CUdevice* device) {
  return driver_call("ctx_get_device", [&](Caller& caller) {
    const ContextState* context = caller.state.current(caller.thread);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    *device = context->device;
    return CUDA_SUCCESS;
  });
}

CUresult device_primary_ctx_get_state(CUdevice device, unsigned* flags, int* active) {
  return driver_call("device_primary_ctx_get_state", [&](Caller& caller) {
    *flags = 0;
    *active = context_of(caller, device).active ? 1 : 0;
    return CUDA_SUCCESS;
  });
}

CUresult device_primary_ctx_retain(CUcontext* context, CUdevice device) {
  return driver_call("device_primary_ctx_retain", [&](Caller& caller) {
    State& state = caller.state;
    ContextState& wanted = context_of(caller, device);
    if (wanted.dead != CUDA_SUCCESS) return static_cast<CUresult>(wanted.dead);
    if (!wanted.active) {
      state.report(ReportKind::context_created,
                   "device_primary_ctx_retain made the context of cuda:" + std::to_string(device));
      wanted.active = true;
      wanted.id = ++state.context_ids;
    }
    ++wanted.retained;
    *context = state.handle_of(device);
    return CUDA_SUCCESS;
  });
}

CUresult device_primary_ctx_release(CUdevice device) {
  return driver_call("device_primary_ctx_release", [&](Caller& caller) {
    State& state = caller.state;
    ContextState& context = context_of(caller, device);
    if (context.retained == 0) {
      if (context.active) {
        state.report(ReportKind::bad_argument,
                     "device_primary_ctx_release of a context that was not retained");
      }
      return CUDA_ERROR_INVALID_CONTEXT;
    }
    if (--context.retained > 0 || context.used_by_runtime) return CUDA_SUCCESS;
    if (anything_lives_in(state, device)) {
      state.report(ReportKind::context_destroyed,
                   "the last reference to the context of cuda:" + std::to_string(device) +
                       " was released while streams or events lived in it");
    }
    state.lose(device);
    return CUDA_SUCCESS;
  });
}

}  // namespace functions
}  // namespace dlbridge::cuda_sim
