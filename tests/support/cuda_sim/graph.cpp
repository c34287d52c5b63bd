// SPDX-License-Identifier: Apache-2.0
// Streams, and what each operation comes after.
#include <algorithm>

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

StreamState& State::new_stream(StreamState::Kind kind, int device, unsigned flags, bool counted) {
  StreamState& stream = streams.emplace_back();
  stream.kind = kind;
  stream.actor = streams.size() - 1;
  stream.device = device;
  stream.flags = flags;
  stream.counted = counted;
  if (kind == StreamState::created) {
    stream.handle = reinterpret_cast<cudaStream_t>(0x57000000 + 16 * stream.actor);
    stream_handles[stream.handle] = &stream;
  } else {
    stream.handle = kind == StreamState::legacy ? cudaStreamLegacy : cudaStreamPerThread;
  }
  return stream;
}

StreamState* State::find_stream(cudaStream_t handle, int device, ThreadState& thread) {
  ContextState& context = contexts[static_cast<size_t>(device)];
  if (handle == nullptr || handle == cudaStreamLegacy) {
    if (context.legacy == nullptr) {
      context.legacy = &new_stream(StreamState::legacy, device, 0, false);
    }
    return context.legacy;
  }
  if (handle == cudaStreamPerThread) {
    StreamState*& mine = context.per_thread[thread.id];
    if (mine == nullptr) mine = &new_stream(StreamState::per_thread, device, 0, false);
    return mine;
  }
  const auto found = stream_handles.find(handle);
  if (found == stream_handles.end()) {
    report(ReportKind::bad_argument,
           hex(reinterpret_cast<uintptr_t>(handle)) + " is no stream's handle");
    return nullptr;
  }
  if (found->second->destroyed && !found->second->lost) {
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
      if (other.device == stream.device && other.blocking() && !other.lost) follow(other.tail);
    }
  } else if (stream.blocking()) {
    const ContextState& context = contexts[static_cast<size_t>(stream.device)];
    if (context.legacy != nullptr) follow(context.legacy->tail);
  }
  follow(draft.after);
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
