// SPDX-License-Identifier: Apache-2.0
// Streams, events and capture modes, as the table offers them.
#include "call.h"

namespace dlbridge::cuda_sim::functions {
namespace {

// The host may not look into a capture.
EventState& asked_event(Caller& caller, CUevent handle) {
  EventState& event = caller.usable_event(handle);
  if (event.capture == nullptr) return event;
  if (!event.capture->ended)
    caller.state.invalidate(*event.capture,
                            std::string(caller.function) + " of an event of a capture");
  throw CUDA_ERROR_CAPTURED_EVENT;
}

StreamState& asked_stream(Caller& caller, CUstream handle) {
  StreamState& stream = caller.usable_stream(handle);
  if (stream.capture == nullptr) return stream;
  caller.state.invalidate(*stream.capture,
                          std::string(caller.function) + " of the captured " + stream.name());
  throw CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

}  // namespace

CUresult stream_create_with_flags(CUstream* stream, unsigned flags) {
  return call("stream_create_with_flags", kContext, [&](Caller& caller) {
    if ((flags & ~unsigned{CU_STREAM_NON_BLOCKING}) != 0) return CUDA_ERROR_INVALID_VALUE;
    caller.state.wait_for_running(caller.lock);
    *stream =
        caller.state.new_stream(StreamState::created, caller.thread.contexts.back(), flags, true)
            .handle;
    return CUDA_SUCCESS;
  });
}

CUresult stream_destroy(CUstream handle) {
  return call("stream_destroy", kContext, [&](Caller& caller) {
    StreamState& stream = caller.stream(handle);
    if (stream.kind != StreamState::created)
      caller.refuse(ReportKind::bad_argument, "the " + stream.name() + " was destroyed",
                    CUDA_ERROR_INVALID_HANDLE);
    if (stream.capture != nullptr)
      caller.state.invalidate(*stream.capture, stream.name() + " was destroyed in a capture");
    caller.state.note(stream.name() + " destroyed");
    caller.state.destroy(stream);
    return CUDA_SUCCESS;
  });
}

CUresult stream_wait_event(CUstream handle, CUevent event_handle, unsigned flags) {
  return call("stream_wait_event", kContext, [&](Caller& caller) {
    if ((flags & ~unsigned{CU_EVENT_WAIT_EXTERNAL}) != 0) return CUDA_ERROR_INVALID_VALUE;
    EventState& event = caller.usable_event(event_handle);
    StreamState& stream = caller.stream(handle);
    stream.used_through_table = true;
    caller.state.wait(stream, event, caller.function);
    return CUDA_SUCCESS;
  });
}

CUresult stream_synchronize(CUstream handle) {
  return call("stream_synchronize", kContext | kUnsafe, [&](Caller& caller) {
    return caller.state.wait_for(caller.lock, asked_stream(caller, handle).tail);
  });
}

CUresult stream_query(CUstream handle) {
  return call("stream_query", kContext | kUnsafe, [&](Caller& caller) {
    State& state = caller.state;
    StreamState& stream = asked_stream(caller, handle);
    CUresult error = state.query(stream.tail);
    if (stream.kind != StreamState::legacy) return error;
    // The legacy stream's handle stands for all blocking streams of its context.
    for (const StreamState& other : state.streams) {
      if (other.context != stream.context || !other.blocking() || other.lost) continue;
      const CUresult one = state.query(other.tail);
      if (error == CUDA_SUCCESS) error = one;
    }
    return error;
  });
}

CUresult stream_is_capturing(CUstream handle, CUstreamCaptureStatus* status) {
  return call("stream_is_capturing", kContext, [&](Caller& caller) {
    State& state = caller.state;
    StreamState& stream = caller.stream(handle);
    if (state.dead(stream.device) != CUDA_SUCCESS) return state.dead(stream.device);
    if (stream.kind == StreamState::legacy &&
        state.captures_block(stream, [](Capture&, const StreamState&) {}))
      return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;  // and the capture stays as it is
    *status = stream.capture == nullptr     ? CU_STREAM_CAPTURE_STATUS_NONE
              : stream.capture->invalidated ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                            : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
  });
}

CUresult stream_get_ctx(CUstream handle, CUcontext* context) {
  return driver_call("stream_get_ctx", [&](Caller& caller) {
    if (caller.state.current(caller.thread) == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    *context = caller.stream(handle).context;
    return CUDA_SUCCESS;
  });
}

CUresult thread_exchange_stream_capture_mode(CUstreamCaptureMode* mode) {
  // Not documented: a caller had better have a context even for this.
  return call("thread_exchange_stream_capture_mode", kContext, [&](Caller& caller) {
    std::swap(*mode, caller.thread.mode);
    return CUDA_SUCCESS;
  });
}

CUresult event_create_with_flags(CUevent* handle, unsigned flags) {
  return call("event_create_with_flags", kContext, [&](Caller& caller) {
    State& state = caller.state;
    constexpr unsigned kKnown =
        CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
    if ((flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
    EventState& event = state.events.emplace_back();
    event.id = state.events.size();
    event.handle = reinterpret_cast<CUevent>(0xE7000000 + 16 * event.id);
    if (!state.free_events.empty()) {  // the driver reuses handles at once (rmm#649)
      event.handle = state.free_events.back();
      state.free_events.pop_back();
    }
    event.device = caller.device();
    event.context = caller.thread.contexts.back();
    event.flags = flags;
    state.event_handles[event.handle] = &event;
    *handle = event.handle;
    return CUDA_SUCCESS;
  });
}

CUresult event_record(CUevent event_handle, CUstream handle) {
  return call("event_record", kContext, [&](Caller& caller) {
    EventState& event = caller.usable_event(event_handle);
    StreamState& stream = caller.stream(handle);
    stream.used_through_table = true;
    caller.state.record(event, stream, caller.function);
    return CUDA_SUCCESS;
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

CUresult event_synchronize(CUevent handle) {
  return call("event_synchronize", kUnsafe, [&](Caller& caller) {
    const EventState& event = asked_event(caller, handle);
    const bool pending = event.recorded != nullptr && !event.recorded->done;
    if (pending && (event.flags & CU_EVENT_BLOCKING_SYNC) == 0) ++caller.state.spinning;
    return caller.state.wait_for(caller.lock, event.recorded);
  });
}

CUresult event_destroy(CUevent handle) {
  return call("event_destroy", kContext, [&](Caller& caller) {
    EventState& event = caller.event(handle);
    event.destroyed = true;
    event.recorded = nullptr;
    caller.state.free_events.push_back(handle);
    return CUDA_SUCCESS;
  });
}

}  // namespace dlbridge::cuda_sim::functions
