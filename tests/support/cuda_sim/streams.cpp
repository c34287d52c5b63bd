// SPDX-License-Identifier: Apache-2.0
// Streams and events: what each operation comes after, and what the table says of them.
#include <stdexcept>

#include "call.h"

namespace dlbridge::cuda_sim {
namespace {

// Returns false if `cause` is over or known already.
bool add_cause(const OperationPtr& operation, const OperationPtr& cause) {
  auto& causes = operation->causes;
  if (cause->done || std::find(causes.begin(), causes.end(), cause) != causes.end()) return false;
  causes.push_back(cause);
  cause->effects.push_back(operation.get());
  return true;
}

}  // namespace

StreamState& State::new_stream(StreamState::Kind kind, CUcontext context, unsigned flags,
                               bool counted) {
  DeviceState& device = devices.at(contexts.at(context).device);
  StreamState& stream = streams.all.emplace_back();
  stream.kind = kind;
  stream.actor = streams.all.size() - 1;
  stream.device = device.device;
  stream.context = context;
  stream.connection = device.made_streams++ % static_cast<size_t>(config.connections);
  stream.flags = flags;
  stream.counted = counted;
  if (kind == StreamState::created)
    streams.give_handle(stream);
  else
    stream.handle = kind == StreamState::legacy ? CU_STREAM_LEGACY : CU_STREAM_PER_THREAD;
  return stream;
}

StreamState* State::find_stream(CUstream handle, int device) {
  const bool legacy = handle == nullptr || handle == CU_STREAM_LEGACY;
  if (!legacy && handle != CU_STREAM_PER_THREAD) return streams.find(handle);
  const ThreadState& mine = thread();
  const DeviceState* own = current(mine);
  const CUcontext context =
      own != nullptr && own->device == device ? mine.contexts.back() : primary_context(device);
  StreamState*& found = default_streams[{context, legacy ? 0 : mine.id}];
  if (found == nullptr) {
    const auto kind = legacy ? StreamState::legacy : StreamState::per_thread;
    found = &new_stream(kind, context, 0, false);
  }
  return found;
}

StreamState& State::named_stream(CUstream handle, int device) {
  if (device < 0) {
    const DeviceState* own = current(thread());
    device = own != nullptr ? own->device : config.active.empty() ? 0 : config.active.front();
  }
  StreamState* stream = find_stream(handle, device);
  if (stream == nullptr || (stream->destroyed && !stream->lost))
    throw std::invalid_argument("no such stream");
  return *stream;
}

void State::submit(StreamState& stream, OperationPtr operation, const OperationPtr& after) {
  if (stream.capture != nullptr) {
    ++captured;
    Clock& joined = stream.capture->streams[&stream];
    return joined.set(stream.actor, joined.at(stream.actor) + 1);
  }
  operation->id = ++operation_ids;
  operation->stream = &stream;
  operation->number = ++stream.numbers;
  operation->text =
      "#" + std::to_string(operation->id) + " " + operation->text + " on " + stream.name();
  operation->clock = host;

  std::string causes;
  const auto follow = [&](const OperationPtr& cause) {
    if (cause == nullptr) return;
    operation->clock.join(cause->clock);
    causes += " #" + std::to_string(cause->id);
    add_cause(operation, cause);
  };
  follow(stream.tail);
  if (stream.kind == StreamState::legacy) {
    for (const StreamState& other : streams.all) {
      if (other.context == stream.context && other.blocking() && !other.lost) follow(other.tail);
    }
  } else if (stream.blocking()) {
    const auto legacy = default_streams.find({stream.context, 0});
    if (legacy != default_streams.end()) follow(legacy->second->tail);
  }
  follow(after);
  // A connection runs what it is given in order, whichever streams share it. That delays, and a
  // program may not count on it: the clocks know nothing of it.
  OperationPtr& before = devices.at(stream.device).connection_tails[stream.connection];
  if (before != nullptr && before->stream != &stream && add_cause(operation, before))
    causes += " (#" + std::to_string(before->id) + ")";
  before = operation;
  operation->clock.set(stream.actor, operation->number);
  note(operation->text + (causes.empty() ? "" : " after" + causes));

  check_races(*operation);
  keep_sources(*operation);
  stream.tail = operation;
  pending[operation->id] = operation;
  if (!operation->accesses.empty()) unobserved.push_back(operation);
  if (operation->causes.empty()) become_ready(*operation);
  drift();
}

void State::record(EventState& event, StreamState& stream, std::string_view call) {
  enter_stream(stream, call);
  if (event.context != stream.context) {
    report(ReportKind::wrong_context, "an event of cuda:" + std::to_string(event.device) +
                                          " was recorded on the " + stream.name());
    throw CUDA_ERROR_INVALID_HANDLE;
  }
  submit(stream, operation("record of event " + hex(event.handle)));
  event.capture = stream.capture;
  event.recorded = stream.capture != nullptr ? nullptr : stream.tail;
  if (stream.capture != nullptr) event.captured = stream.capture->streams[&stream];
}

void State::wait(StreamState& stream, EventState& event, std::string_view call) {
  if (event.capture != nullptr) return capture_wait(stream, event);
  enter_stream(stream, call);
  if (event.recorded == nullptr) return;
  if (stream.capture != nullptr) {
    invalidate(*stream.capture,
               "a captured stream was made to wait for an event outside the capture");
    throw CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  }
  submit(stream, operation("wait for event " + hex(event.handle)), event.recorded);
}

namespace functions {
namespace {

// The host may not look into a capture.
EventState& asked_event(Caller& caller, CUevent handle) {
  EventState& event = caller.event(handle);
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

void stream_create_with_flags(Caller& caller, CUstream* stream, unsigned flags) {
  if ((flags & ~unsigned{CU_STREAM_NON_BLOCKING}) != 0) throw CUDA_ERROR_INVALID_VALUE;
  caller.state.wait_for_running(caller.lock);
  const CUcontext context = caller.thread.contexts.back();
  *stream = caller.state.new_stream(StreamState::created, context, flags, true).handle;
}

void stream_destroy(Caller& caller, CUstream handle) {
  StreamState& stream = caller.stream(handle);
  if (stream.kind != StreamState::created)
    caller.refuse(ReportKind::bad_argument, "the " + stream.name(), CUDA_ERROR_INVALID_HANDLE);
  caller.state.streams.destroy(stream);
}

void stream_wait_event(Caller& caller, CUstream handle, CUevent event_handle, unsigned flags) {
  if (flags != 0) throw CUDA_ERROR_INVALID_VALUE;
  EventState& event = caller.event(event_handle);
  StreamState& stream = caller.stream(handle);
  stream.used_through_table = true;
  caller.state.wait(stream, event, caller.function);
}

void stream_synchronize(Caller& caller, CUstream handle) {
  check(caller.state.wait_for(caller.lock, asked_stream(caller, handle).tail));
}

void stream_query(Caller& caller, CUstream handle) {
  State& state = caller.state;
  StreamState& stream = asked_stream(caller, handle);
  check(state.query(stream.tail));
  if (stream.kind != StreamState::legacy) return;
  // The legacy stream's handle stands for all blocking streams of its context.
  for (const StreamState& other : state.streams.all) {
    if (other.context == stream.context && other.blocking() && !other.lost)
      check(state.query(other.tail));
  }
}

void stream_is_capturing(Caller& caller, CUstream handle, CUstreamCaptureStatus* status) {
  StreamState& stream = caller.stream(handle);
  check(caller.state.dead(stream.device));
  if (!caller.state.captures_in_the_way(stream).empty())
    throw CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;  // and the capture stays as it is
  *status = stream.capture == nullptr     ? CU_STREAM_CAPTURE_STATUS_NONE
            : stream.capture->invalidated ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                          : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

void stream_get_ctx(Caller& caller, CUstream handle, CUcontext* context) {
  if (caller.state.current(caller.thread) == nullptr) throw CUDA_ERROR_INVALID_CONTEXT;
  *context = caller.stream(handle).context;
}

void thread_exchange_stream_capture_mode(Caller& caller, CUstreamCaptureMode* mode) {
  std::swap(*mode, caller.thread.mode);
}

void event_create_with_flags(Caller& caller, CUevent* handle, unsigned flags) {
  constexpr unsigned kKnown = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING;
  if ((flags & ~kKnown) != 0) throw CUDA_ERROR_INVALID_VALUE;
  EventState& event = caller.state.events.all.emplace_back();
  event.device = caller.device();
  event.context = caller.thread.contexts.back();
  event.flags = flags;
  caller.state.events.give_handle(event);
  *handle = event.handle;
}

void event_record(Caller& caller, CUevent event_handle, CUstream handle) {
  EventState& event = caller.event(event_handle);
  StreamState& stream = caller.stream(handle);
  stream.used_through_table = true;
  caller.state.record(event, stream, caller.function);
}

void event_query(Caller& caller, CUevent handle) {
  check(caller.state.query(asked_event(caller, handle).recorded));
}

void event_synchronize(Caller& caller, CUevent handle) {
  const EventState& event = asked_event(caller, handle);
  const bool pending = event.recorded != nullptr && !event.recorded->done;
  if (pending && (event.flags & CU_EVENT_BLOCKING_SYNC) == 0) ++caller.state.spinning;
  check(caller.state.wait_for(caller.lock, event.recorded));
}

void event_destroy(Caller& caller, CUevent handle) {
  EventState& event = caller.event(handle);
  event.recorded = nullptr;
  caller.state.events.destroy(event);
}

}  // namespace functions
}  // namespace dlbridge::cuda_sim
