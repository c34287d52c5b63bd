// SPDX-License-Identifier: Apache-2.0
// Streams, events and capture modes, as the table offers them.
#include "call.h"

namespace dlbridge::cuda_sim::functions {
namespace {

// The host may not look into a capture.
EventState& asked_event(Caller& caller, cudaEvent_t handle) {
  EventState& event = caller.usable_event(handle);
  if (event.capture == nullptr) return event;
  if (!event.capture->ended)
    caller.state.invalidate(*event.capture,
                            std::string(caller.function) + " of an event of a capture");
  throw cudaErrorCapturedEvent;
}

StreamState& asked_stream(Caller& caller, cudaStream_t handle) {
  StreamState& stream = caller.usable_stream(handle);
  if (stream.capture == nullptr) return stream;
  caller.state.invalidate(*stream.capture,
                          std::string(caller.function) + " of the captured " + stream.name());
  throw cudaErrorStreamCaptureUnsupported;
}

}  // namespace

cudaError_t stream_create_with_flags(cudaStream_t* stream, unsigned flags) {
  return call("stream_create_with_flags", kContext, [&](Caller& caller) {
    if ((flags & ~unsigned{cudaStreamNonBlocking}) != 0) return cudaErrorInvalidValue;
    caller.state.wait_for_running(caller.lock);
    *stream =
        caller.state.new_stream(StreamState::created, caller.thread.contexts.back(), flags, true)
            .handle;
    return cudaSuccess;
  });
}

cudaError_t stream_destroy(cudaStream_t handle) {
  return call("stream_destroy", kContext, [&](Caller& caller) {
    StreamState& stream = caller.stream(handle);
    if (stream.kind != StreamState::created)
      caller.refuse(ReportKind::bad_argument, "the " + stream.name() + " was destroyed",
                    cudaErrorInvalidResourceHandle);
    if (stream.capture != nullptr)
      caller.state.invalidate(*stream.capture, stream.name() + " was destroyed in a capture");
    caller.state.note(stream.name() + " destroyed");
    caller.state.destroy(stream);
    return cudaSuccess;
  });
}

cudaError_t stream_wait_event(cudaStream_t handle, cudaEvent_t event_handle, unsigned flags) {
  return call("stream_wait_event", kContext, [&](Caller& caller) {
    if ((flags & ~unsigned{cudaEventWaitExternal}) != 0) return cudaErrorInvalidValue;
    EventState& event = caller.usable_event(event_handle);
    StreamState& stream = caller.stream(handle);
    stream.used_through_table = true;
    caller.state.wait(stream, event, caller.function);
    return cudaSuccess;
  });
}

cudaError_t stream_synchronize(cudaStream_t handle) {
  return call("stream_synchronize", kContext | kUnsafe, [&](Caller& caller) {
    return caller.state.wait_for(caller.lock, asked_stream(caller, handle).tail);
  });
}

cudaError_t stream_query(cudaStream_t handle) {
  return call("stream_query", kContext | kUnsafe, [&](Caller& caller) {
    State& state = caller.state;
    StreamState& stream = asked_stream(caller, handle);
    cudaError_t error = state.query(stream.tail);
    if (stream.kind != StreamState::legacy) return error;
    // The legacy stream's handle stands for all blocking streams of its context.
    for (const StreamState& other : state.streams) {
      if (other.context != stream.context || !other.blocking() || other.lost) continue;
      const cudaError_t one = state.query(other.tail);
      if (error == cudaSuccess) error = one;
    }
    return error;
  });
}

cudaError_t stream_is_capturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  return call("stream_is_capturing", kContext, [&](Caller& caller) {
    State& state = caller.state;
    StreamState& stream = caller.stream(handle);
    if (state.dead(stream.device) != cudaSuccess) return state.dead(stream.device);
    if (stream.kind == StreamState::legacy &&
        state.captures_block(stream, [](Capture&, const StreamState&) {}))
      return cudaErrorStreamCaptureImplicit;  // and the capture stays as it is
    *status = stream.capture == nullptr     ? cudaStreamCaptureStatusNone
              : stream.capture->invalidated ? cudaStreamCaptureStatusInvalidated
                                            : cudaStreamCaptureStatusActive;
    return cudaSuccess;
  });
}

CUresult stream_get_ctx(CUstream handle, CUcontext* context) {
  return driver_call("stream_get_ctx", [&](Caller& caller) {
    if (caller.state.current(caller.thread) == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    *context = caller.stream(handle).context;
    return CUDA_SUCCESS;
  });
}

cudaError_t thread_exchange_stream_capture_mode(cudaStreamCaptureMode* mode) {
  // The runtime makes a context even for this.
  return call("thread_exchange_stream_capture_mode", kContext, [&](Caller& caller) {
    std::swap(*mode, caller.thread.mode);
    return cudaSuccess;
  });
}

cudaError_t event_create_with_flags(cudaEvent_t* handle, unsigned flags) {
  return call("event_create_with_flags", kContext, [&](Caller& caller) {
    State& state = caller.state;
    constexpr unsigned kKnown =
        cudaEventBlockingSync | cudaEventDisableTiming | cudaEventInterprocess;
    if ((flags & ~kKnown) != 0) return cudaErrorInvalidValue;
    EventState& event = state.events.emplace_back();
    event.id = state.events.size();
    event.handle = reinterpret_cast<cudaEvent_t>(0xE7000000 + 16 * event.id);
    if (!state.free_events.empty()) {  // the driver reuses handles at once (rmm#649)
      event.handle = state.free_events.back();
      state.free_events.pop_back();
    }
    event.device = caller.device();
    event.context = caller.thread.contexts.back();
    event.flags = flags;
    state.event_handles[event.handle] = &event;
    *handle = event.handle;
    return cudaSuccess;
  });
}

cudaError_t event_record(cudaEvent_t event_handle, cudaStream_t handle) {
  return call("event_record", kContext, [&](Caller& caller) {
    EventState& event = caller.usable_event(event_handle);
    StreamState& stream = caller.stream(handle);
    stream.used_through_table = true;
    caller.state.record(event, stream, caller.function);
    return cudaSuccess;
  });
}

CUresult event_query(CUevent handle) {
  return driver_call("event_query", [&](Caller& caller) {
    if (caller.state.forbidden(caller.thread, caller.function))
      return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    caller.state.drift();
    return static_cast<CUresult>(caller.state.query(asked_event(caller, handle).recorded));
  });
}

cudaError_t event_synchronize(cudaEvent_t handle) {
  return call("event_synchronize", kUnsafe, [&](Caller& caller) {
    const EventState& event = asked_event(caller, handle);
    const bool pending = event.recorded != nullptr && !event.recorded->done;
    if (pending && (event.flags & cudaEventBlockingSync) == 0) ++caller.state.spinning;
    return caller.state.wait_for(caller.lock, event.recorded);
  });
}

cudaError_t event_destroy(cudaEvent_t handle) {
  return call("event_destroy", kContext, [&](Caller& caller) {
    EventState& event = caller.event(handle);
    event.destroyed = true;
    event.recorded = nullptr;
    caller.state.free_events.push_back(handle);
    return cudaSuccess;
  });
}

}  // namespace dlbridge::cuda_sim::functions
