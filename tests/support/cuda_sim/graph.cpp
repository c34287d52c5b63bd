// SPDX-License-Identifier: Apache-2.0
// Streams, and what each operation comes after.
#include <algorithm>
#include <string_view>

#include "state.h"

namespace dlbridge::cuda_sim {

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
  ContextState& primary = contexts.at(static_cast<size_t>(device));
  StreamState& stream = streams.emplace_back();
  stream.kind = kind;
  stream.actor = streams.size() - 1;
  stream.device = device;
  stream.context = context;
  stream.connection = primary.made_streams++ % static_cast<size_t>(config.connections);
  stream.flags = flags;
  stream.counted = counted;
  if (kind == StreamState::created) {
    stream.handle = reinterpret_cast<cudaStream_t>(0x57000000 + 16 * stream.actor);
    if (!free_streams.empty()) {  // the driver reuses handles at once (rmm#649)
      stream.handle = free_streams.back();
      free_streams.pop_back();
    }
    stream_handles[stream.handle] = &stream;
  } else {
    stream.handle = kind == StreamState::legacy ? cudaStreamLegacy : cudaStreamPerThread;
  }
  return stream;
}

void State::destroy(StreamState& stream) {
  stream.destroyed = true;
  free_streams.push_back(stream.handle);
}

StreamState* State::find_stream(cudaStream_t handle, int device, ThreadState& thread,
                                const char* function) {
  const bool legacy = handle == nullptr || handle == cudaStreamLegacy;
  if (legacy || handle == cudaStreamPerThread) {
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

EventState* State::find_event(cudaEvent_t handle) {
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

OperationPtr State::enqueue(StreamState& stream, Draft draft) {
  auto operation = std::make_shared<Operation>();
  operation->id = ++operation_ids;
  operation->stream = &stream;
  operation->number = ++stream.numbers;
  operation->text = "#" + std::to_string(operation->id) + " " + draft.text + " on " + stream.name();
  operation->accesses = std::move(draft.accesses);
  operation->run = std::move(draft.run);
  operation->host_function = std::move(draft.host_function);
  operation->releases = draft.releases;
  operation->poisons = draft.poisons;
  operation->clock = host;

  std::string after;
  const auto follow = [&](const OperationPtr& cause) {
    if (cause == nullptr) return;
    operation->clock.join(cause->clock);
    after += " #" + std::to_string(cause->id);
    if (cause->done) return;
    const auto& causes = operation->causes;
    if (std::find(causes.begin(), causes.end(), cause) != causes.end()) return;
    operation->causes.push_back(cause);
    cause->effects.push_back(operation.get());
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
  follow(draft.after);
  // A connection runs what it is given in order, whichever streams share it. That delays, and a
  // program may not count on it: the clocks know nothing of it.
  OperationPtr& before =
      contexts[static_cast<size_t>(stream.device)].connection_tails[stream.connection];
  if (before != nullptr && !before->done && before->stream != &stream &&
      std::find(operation->causes.begin(), operation->causes.end(), before) ==
          operation->causes.end()) {
    operation->causes.push_back(before);
    before->effects.push_back(operation.get());
    after += " (#" + std::to_string(before->id) + ")";
  }
  before = operation;
  operation->clock.set(stream.actor, operation->number);
  note(operation->text + (after.empty() ? "" : " after" + after));

  check_races(operation);
  hash_sources(*operation);
  stream.tail = operation;
  pending[operation->id] = operation;
  if (!operation->accesses.empty()) unobserved.push_back(operation);
  if (operation->causes.empty()) become_ready(*operation);
  return operation;
}

}  // namespace dlbridge::cuda_sim
