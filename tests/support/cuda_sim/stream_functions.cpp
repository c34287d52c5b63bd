// SPDX-License-Identifier: Apache-2.0
// Streams, events and capture modes, as the table offers them.
#include "call.h"
#include "functions.h"

namespace dlbridge::cuda_sim::functions {
namespace {

// An event that may be asked or waited for by the host; else the answer in `error`.
EventState* usable_event(Caller& caller, cudaEvent_t handle, cudaError_t& error) {
  State& state = caller.state;
  EventState* event = state.find_event(handle);
  error = no_such_event(state, caller.function, handle);
  if (event == nullptr) return nullptr;
  error = cudaErrorContextIsDestroyed;
  if (event->lost) return nullptr;
  error = state.contexts[static_cast<size_t>(event->device)].dead;
  return error == cudaSuccess ? event : nullptr;
}

// The host may not look into a capture.
cudaError_t refuse_captured(Caller& caller, EventState& event) {
  if (event.capture == nullptr) return cudaSuccess;
  if (!event.capture->ended) {
    caller.state.invalidate(*event.capture,
                            std::string(caller.function) + " of an event of a capture");
  }
  return cudaErrorCapturedEvent;
}

cudaError_t refuse_capturing(Caller& caller, StreamState& stream) {
  if (stream.capture == nullptr) return cudaSuccess;
  caller.state.invalidate(*stream.capture,
                          std::string(caller.function) + " of the captured " + stream.name());
  return cudaErrorStreamCaptureUnsupported;
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
    StreamState* stream = caller.stream(handle);
    if (stream == nullptr) return no_such_stream(caller.state, caller.function, handle);
    if (stream->lost) return cudaErrorContextIsDestroyed;
    if (stream->kind != StreamState::created) {
      caller.state.report(ReportKind::bad_argument, "the " + stream->name() + " was destroyed");
      return cudaErrorInvalidResourceHandle;
    }
    if (stream->capture != nullptr) {
      caller.state.invalidate(*stream->capture, stream->name() + " was destroyed in a capture");
    }
    caller.state.note(stream->name() + " destroyed");
    caller.state.destroy(*stream);
    return cudaSuccess;
  });
}

cudaError_t stream_wait_event(cudaStream_t handle, cudaEvent_t event_handle, unsigned flags) {
  return call("stream_wait_event", kContext, [&](Caller& caller) {
    if ((flags & ~unsigned{cudaEventWaitExternal}) != 0) return cudaErrorInvalidValue;
    State& state = caller.state;
    cudaError_t error;
    EventState* event = usable_event(caller, event_handle, error);
    if (event == nullptr) return error;
    StreamState* stream = caller.stream(handle);
    if (stream != nullptr && event->capture != nullptr) return state.capture_wait(*stream, *event);
    stream = usable_stream(caller, handle, error);
    if (stream == nullptr) return error;
    stream->used_through_table = true;
    if (stream->capture != nullptr) {
      if (event->recorded == nullptr) return cudaSuccess;
      state.invalidate(*stream->capture,
                       "a captured stream was made to wait for an event outside the capture");
      return cudaErrorStreamCaptureIsolation;
    }
    if (event->recorded == nullptr) return cudaSuccess;
    Draft draft;
    draft.text = "wait for event " + std::to_string(event->id);
    draft.after = event->recorded;
    submit(caller, *stream, std::move(draft));
    return cudaSuccess;
  });
}

cudaError_t stream_synchronize(cudaStream_t handle) {
  return call("stream_synchronize", kContext | kUnsafe, [&](Caller& caller) {
    cudaError_t error;
    StreamState* stream = usable_stream(caller, handle, error);
    if (stream == nullptr) return error;
    error = refuse_capturing(caller, *stream);
    return error != cudaSuccess ? error : caller.state.wait_for(caller.lock, stream->tail);
  });
}

cudaError_t stream_query(cudaStream_t handle) {
  return call("stream_query", kContext | kUnsafe, [&](Caller& caller) {
    State& state = caller.state;
    cudaError_t error;
    StreamState* stream = usable_stream(caller, handle, error);
    if (stream == nullptr) return error;
    error = refuse_capturing(caller, *stream);
    if (error != cudaSuccess) return error;
    error = state.query(stream->tail);
    if (stream->kind != StreamState::legacy) return error;
    // The legacy stream's handle stands for all blocking streams of its context.
    for (const StreamState& other : state.streams) {
      if (other.context != stream->context || !other.blocking() || other.lost) continue;
      const cudaError_t one = state.query(other.tail);
      if (error == cudaSuccess) error = one;
    }
    return error;
  });
}

cudaError_t stream_is_capturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  return call("stream_is_capturing", kContext, [&](Caller& caller) {
    State& state = caller.state;
    StreamState* stream = caller.stream(handle);
    if (stream == nullptr) return no_such_stream(caller.state, caller.function, handle);
    if (stream->lost) return cudaErrorContextIsDestroyed;
    const cudaError_t dead = state.contexts[static_cast<size_t>(stream->device)].dead;
    if (dead != cudaSuccess) return dead;
    if (stream->kind == StreamState::legacy) {
      for (const auto& capture : state.captures) {
        for (const auto& [captured, clock] : capture->streams) {
          if (captured->blocking() && captured->device == stream->device) {
            return cudaErrorStreamCaptureImplicit;  // and the capture stays as it is
          }
        }
      }
    }
    *status = stream->capture == nullptr     ? cudaStreamCaptureStatusNone
              : stream->capture->invalidated ? cudaStreamCaptureStatusInvalidated
                                             : cudaStreamCaptureStatusActive;
    return cudaSuccess;
  });
}

CUresult stream_get_ctx(CUstream handle, CUcontext* context) {
  return driver_call("stream_get_ctx", [&](Caller& caller) {
    if (caller.state.current(caller.thread) == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    StreamState* stream = caller.stream(handle);
    if (stream == nullptr) {
      return static_cast<CUresult>(no_such_stream(caller.state, caller.function, handle));
    }
    if (stream->lost) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    *context = stream->context;
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
    State& state = caller.state;
    cudaError_t error;
    EventState* event = usable_event(caller, event_handle, error);
    if (event == nullptr) return error;
    StreamState* stream = usable_stream(caller, handle, error);
    if (stream == nullptr) return error;
    if (event->context != stream->context) {
      state.report(ReportKind::wrong_context, "event " + std::to_string(event->id) +
                                                  " of cuda:" + std::to_string(event->device) +
                                                  " was recorded on the " + stream->name());
      return cudaErrorInvalidResourceHandle;
    }
    Draft draft;
    draft.text = "record of event " + std::to_string(event->id);
    submit(caller, *stream, std::move(draft));
    event->capture = stream->capture;
    if (stream->capture != nullptr) {
      event->captured = stream->capture->streams[stream];
      event->recorded = nullptr;
    } else {
      event->recorded = stream->tail;
    }
    return cudaSuccess;
  });
}

CUresult event_query(CUevent handle) {
  return driver_call("event_query", [&](Caller& caller) {
    const auto ask = [&] {
      if (caller.state.forbidden(caller.thread, caller.function))
        return cudaErrorStreamCaptureUnsupported;
      caller.state.drift();
      cudaError_t error;
      EventState* event = usable_event(caller, handle, error);
      if (event == nullptr) return error;
      error = refuse_captured(caller, *event);
      return error != cudaSuccess ? error : caller.state.query(event->recorded);
    };
    return static_cast<CUresult>(ask());
  });
}

cudaError_t event_synchronize(cudaEvent_t handle) {
  return call("event_synchronize", kUnsafe, [&](Caller& caller) {
    cudaError_t error;
    EventState* event = usable_event(caller, handle, error);
    if (event == nullptr) return error;
    error = refuse_captured(caller, *event);
    if (error != cudaSuccess) return error;
    const OperationPtr target = event->recorded;
    if (target != nullptr && !target->done && (event->flags & cudaEventBlockingSync) == 0) {
      ++caller.state.spinning;
    }
    return caller.state.wait_for(caller.lock, target);
  });
}

cudaError_t event_destroy(cudaEvent_t handle) {
  return call("event_destroy", kContext, [&](Caller& caller) {
    EventState* event = caller.state.find_event(handle);
    if (event == nullptr) return no_such_event(caller.state, caller.function, handle);
    if (event->lost) return cudaErrorContextIsDestroyed;
    event->destroyed = true;
    event->recorded = nullptr;
    caller.state.free_events.push_back(handle);
    return cudaSuccess;
  });
}

}  // namespace dlbridge::cuda_sim::functions
