// SPDX-License-Identifier: Apache-2.0
// Streams, and what each operation comes after.
#include <algorithm>
#include <string_view>

#include "state.h"

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

std::string StreamState::name() const {
  const std::string device_name = "cuda:" + std::to_string(device);
  switch (kind) {
    case legacy:
      return "legacy stream of " + device_name;
    case per_thread:
      return "per-thread stream " + std::to_string(actor) + " of " + device_name;
    case created:
      break;
  }
  return std::string(blocking() ? "blocking" : "non-blocking") + " stream " +
         std::to_string(actor) + " of " + device_name;
}

StreamState& State::new_stream(StreamState::Kind kind, CUcontext context, unsigned flags,
                               bool counted) {
  const int device = device_of(context);
  ContextState& primary = contexts.at(device);
  StreamState& stream = streams.emplace_back();
  stream.kind = kind;
  stream.actor = streams.size() - 1;
  stream.device = device;
  stream.context = context;
  stream.connection = primary.made_streams++ % static_cast<size_t>(config.connections);
  stream.flags = flags;
  stream.counted = counted;
  if (kind == StreamState::created) {
    stream.handle = reinterpret_cast<CUstream>(0x57000000 + 16 * stream.actor);
    if (!free_streams.empty()) {  // the driver reuses handles at once (rmm#649)
      stream.handle = free_streams.back();
      free_streams.pop_back();
    }
    stream_handles[stream.handle] = &stream;
  } else {
    stream.handle = kind == StreamState::legacy ? CU_STREAM_LEGACY : CU_STREAM_PER_THREAD;
  }
  return stream;
}

void State::destroy(StreamState& stream) {
  stream.destroyed = true;
  free_streams.push_back(stream.handle);
}

StreamState* State::find_stream(CUstream handle, int device, ThreadState& thread,
                                const char* function) {
  const bool legacy = handle == nullptr || handle == CU_STREAM_LEGACY;
  if (legacy || handle == CU_STREAM_PER_THREAD) {
    CUcontext context = thread.contexts.empty() ? nullptr : thread.contexts.back();
    if (context == nullptr || device_of(context) != device) context = handle_of(device);
    DefaultStreams& own = streams_of(context);
    StreamState*& found = legacy ? own.legacy : own.per_thread[thread.id];
    if (found == nullptr) {
      const auto kind = legacy ? StreamState::legacy : StreamState::per_thread;
      found = &new_stream(kind, context, 0, false);
    }
    return found;
  }
  const auto found = stream_handles.find(handle);
  if (found == stream_handles.end()) {
    report(ReportKind::bad_argument,
           hex(reinterpret_cast<uintptr_t>(handle)) + " is no stream's handle");
    return nullptr;
  }
  if (found->second->destroyed && !found->second->lost) {
    const std::string_view asked = function;
    if (asked != "stream_is_capturing" && asked != "stream_get_ctx")
      report(ReportKind::use_after_destroy, found->second->name() + " is destroyed");
    return nullptr;
  }
  return found->second;
}

EventState* State::find_event(CUevent handle) {
  const auto found = event_handles.find(handle);
  if (found == event_handles.end()) {
    report(ReportKind::bad_argument,
           hex(reinterpret_cast<uintptr_t>(handle)) + " is no event's handle");
    return nullptr;
  }
  if (found->second->destroyed && !found->second->lost) {
    report(ReportKind::use_after_destroy,
           "event " + std::to_string(found->second->id) + " is destroyed");
    return nullptr;
  }
  return found->second;
}

void State::submit(StreamState& stream, OperationPtr operation, const OperationPtr& after) {
  if (stream.capture != nullptr) return capture_node(stream);
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
    for (const StreamState& other : streams) {
      if (other.context == stream.context && other.blocking() && !other.lost) follow(other.tail);
    }
  } else if (stream.blocking()) {
    const StreamState* legacy = streams_of(stream.context).legacy;
    if (legacy != nullptr) follow(legacy->tail);
  }
  follow(after);
  // A connection runs what it is given in order, whichever streams share it. That delays, and a
  // program may not count on it: the clocks know nothing of it.
  OperationPtr& before = contexts.at(stream.device).connection_tails[stream.connection];
  if (before != nullptr && before->stream != &stream && add_cause(operation, before))
    causes += " (#" + std::to_string(before->id) + ")";
  before = operation;
  operation->clock.set(stream.actor, operation->number);
  note(operation->text + (causes.empty() ? "" : " after" + causes));

  check_races(operation);
  hash_sources(*operation);
  stream.tail = operation;
  pending[operation->id] = operation;
  if (!operation->accesses.empty()) unobserved.push_back(operation);
  if (operation->causes.empty()) become_ready(*operation);
  drift();
}

void State::record(EventState& event, StreamState& stream, const char* call) {
  enter_stream(stream, call);
  if (event.context != stream.context) {
    report(ReportKind::wrong_context, "event " + std::to_string(event.id) +
                                          " of cuda:" + std::to_string(event.device) +
                                          " was recorded on the " + stream.name());
    throw CUDA_ERROR_INVALID_HANDLE;
  }
  submit(stream, operation("record of event " + std::to_string(event.id)));
  event.capture = stream.capture;
  event.recorded = stream.capture != nullptr ? nullptr : stream.tail;
  if (stream.capture != nullptr) event.captured = stream.capture->streams[&stream];
}

void State::wait(StreamState& stream, EventState& event, const char* call) {
  if (event.capture != nullptr) return capture_wait(stream, event);
  enter_stream(stream, call);
  if (event.recorded == nullptr) return;
  if (stream.capture != nullptr) {
    invalidate(*stream.capture,
               "a captured stream was made to wait for an event outside the capture");
    throw CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  }
  submit(stream, operation("wait for event " + std::to_string(event.id)), event.recorded);
}

}  // namespace dlbridge::cuda_sim
