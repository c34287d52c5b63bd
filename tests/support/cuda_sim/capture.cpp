// SPDX-License-Identifier: Apache-2.0
// Stream capture: what it forbids, to whom, and what breaks it.
#include <stdexcept>

#include "simulator.h"

namespace dlbridge::cuda_sim {

void State::invalidate(Capture& capture, const std::string& why) {
  report(ReportKind::capture_broken, why);
  capture.invalidated = true;
}

bool State::forbidden(const ThreadState& thread, std::string_view call) {
  if (thread.mode == CU_STREAM_CAPTURE_MODE_RELAXED) return false;
  bool hit = false;
  for (const auto& capture : captures) {
    const bool own = capture->thread == thread.id;
    const bool concerned = own ? capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED
                               : thread.mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
                                     capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
    if (!concerned) continue;
    hit = true;
    invalidate(*capture, std::string(call) + " while " + (own ? "this" : "another") +
                             " thread captures " + capture->origin->name());
  }
  return hit;
}

std::vector<Capture*> State::captures_in_the_way(const StreamState& legacy) const {
  std::vector<Capture*> found;
  if (legacy.kind != StreamState::legacy) return found;
  for (const auto& capture : captures) {
    if (std::any_of(capture->streams.begin(), capture->streams.end(), [&](const auto& item) {
          return item.first->blocking() && item.first->device == legacy.device;
        }))
      found.push_back(capture.get());
  }
  return found;
}

void State::enter_stream(StreamState& stream, std::string_view call) {
  if (stream.lost) throw CUDA_ERROR_CONTEXT_IS_DESTROYED;
  check(dead(stream.device));
  const std::vector<Capture*> broken = captures_in_the_way(stream);
  for (Capture* each : broken)
    invalidate(*each, std::string(call) + " on the " + stream.name() +
                          " while a blocking stream is captured");
  if (!broken.empty()) throw CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  if (stream.capture != nullptr && stream.capture->invalidated)
    throw CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
}

void State::capture_wait(StreamState& stream, EventState& event) {
  Capture& capture = *event.capture;
  if (capture.ended) throw CUDA_ERROR_CAPTURED_EVENT;
  if (stream.kind == StreamState::legacy) {
    invalidate(capture, "the legacy stream was made to wait for a captured event");
    throw CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  }
  if (stream.capture != nullptr && stream.capture != event.capture) {
    invalidate(capture, "two captures were joined");
    invalidate(*stream.capture, "two captures were joined");
    throw CUDA_ERROR_STREAM_CAPTURE_MERGE;
  }
  if (capture.invalidated) throw CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  stream.capture = event.capture;
  capture.streams[&stream].join(event.captured);
}

CUresult Simulator::begin_capture(CUstream handle, CUstreamCaptureMode mode) {
  const Locked state = locked();
  StreamState& stream = state->named_stream(handle);
  if (stream.kind == StreamState::legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (stream.capture != nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  stream.capture = std::make_shared<Capture>();
  stream.capture->origin = &stream;
  stream.capture->mode = mode;
  stream.capture->thread = state->thread().id;
  stream.capture->streams[&stream];
  state->captures.push_back(stream.capture);
  return CUDA_SUCCESS;
}

CUresult Simulator::end_capture(CUstream handle) {
  const Locked state = locked();
  StreamState& stream = state->named_stream(handle);
  const std::shared_ptr<Capture> capture = stream.capture;
  if (capture == nullptr || capture->origin != &stream) throw std::invalid_argument("no capture");
  bool joined = true;
  const Clock& known = capture->streams[&stream];
  for (auto& [other, clock] : capture->streams) {
    joined = joined && known.at(other->actor) >= clock.at(other->actor);
    other->capture = nullptr;
  }
  capture->ended = true;
  std::erase(state->captures, capture);
  if (capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  return joined ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
}

}  // namespace dlbridge::cuda_sim
