// SPDX-License-Identifier: Apache-2.0
// Stream capture: what it forbids, to whom, and what breaks it.
#include "state.h"

namespace dlbridge::cuda_sim {

void State::invalidate(Capture& capture, const std::string& why) {
  report(ReportKind::capture_broken, why);
  capture.invalidated = true;
}

bool State::forbidden(ThreadState& thread, const char* call) {
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

void State::enter_stream(StreamState& stream, const char* call) {
  if (stream.lost) throw CUDA_ERROR_CONTEXT_IS_DESTROYED;
  if (dead(stream.device) != CUDA_SUCCESS) throw dead(stream.device);
  if (stream.kind == StreamState::legacy) {
    const bool hit = captures_block(stream, [&](Capture& capture, const StreamState& other) {
      invalidate(capture, std::string(call) + " on the " + stream.name() + " while " +
                              other.name() + " is captured");
    });
    if (hit) throw CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  }
  if (stream.capture != nullptr && stream.capture->invalidated)
    throw CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
}

void State::capture_node(StreamState& stream) {
  Capture& capture = *stream.capture;
  ++captured;
  capture.streams[&stream].set(stream.actor, ++capture.nodes[&stream]);
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

CUresult State::begin_capture(ThreadState& thread, StreamState& stream, CUstreamCaptureMode mode) {
  if (stream.kind == StreamState::legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (stream.capture != nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  auto capture = std::make_shared<Capture>();
  capture->origin = &stream;
  capture->mode = mode;
  capture->thread = thread.id;
  capture->streams[&stream];
  stream.capture = capture;
  captures.push_back(capture);
  note("capture of " + stream.name() + " begins");
  return CUDA_SUCCESS;
}

CUresult State::end_capture(ThreadState& thread, StreamState& stream) {
  if (stream.capture == nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  const std::shared_ptr<Capture> capture = stream.capture;
  if (capture->origin != &stream) {
    invalidate(*capture, "the capture was ended on another stream than it began on");
    return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  }
  if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != thread.id) {
    invalidate(*capture, "the capture was ended by another thread than began it");
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  }
  bool joined = true;
  const Clock& known = capture->streams[&stream];
  for (auto& [other, clock] : capture->streams) {
    joined = joined && known.covers(other->actor, capture->nodes[other]);
    other->capture = nullptr;
  }
  capture->ended = true;
  std::erase(captures, capture);
  note("capture of " + stream.name() + " ends");
  if (capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  return joined ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
}

}  // namespace dlbridge::cuda_sim
