// SPDX-License-Identifier: Apache-2.0
// Stream capture: what it forbids, to whom, and what breaks it.
#include "state.h"

namespace dlbridge::cuda_sim {

void State::invalidate(Capture& capture, const std::string& why) {
  report(ReportKind::capture_broken, why);
  capture.invalidated = true;
}

bool State::forbidden(ThreadState& thread, const char* call) {
  if (thread.mode == cudaStreamCaptureModeRelaxed) return false;
  bool hit = false;
  for (const auto& capture : captures) {
    const bool own = capture->thread == thread.id;
    const bool concerned = own ? capture->mode != cudaStreamCaptureModeRelaxed
                               : thread.mode == cudaStreamCaptureModeGlobal &&
                                     capture->mode == cudaStreamCaptureModeGlobal;
    if (!concerned) continue;
    hit = true;
    invalidate(*capture, std::string(call) + " while " + (own ? "this" : "another") +
                             " thread captures " + capture->origin->name());
  }
  return hit;
}

void State::enter_stream(StreamState& stream, const char* call) {
  if (stream.lost) throw cudaErrorContextIsDestroyed;
  if (dead(stream.device) != cudaSuccess) throw dead(stream.device);
  if (stream.kind == StreamState::legacy) {
    const bool hit = captures_block(stream, [&](Capture& capture, const StreamState& other) {
      invalidate(capture, std::string(call) + " on the " + stream.name() + " while " +
                              other.name() + " is captured");
    });
    if (hit) throw cudaErrorStreamCaptureImplicit;
  }
  if (stream.capture != nullptr && stream.capture->invalidated)
    throw cudaErrorStreamCaptureInvalidated;
}

void State::capture_node(StreamState& stream) {
  Capture& capture = *stream.capture;
  ++captured;
  capture.streams[&stream].set(stream.actor, ++capture.nodes[&stream]);
}

void State::capture_wait(StreamState& stream, EventState& event) {
  Capture& capture = *event.capture;
  if (capture.ended) throw cudaErrorCapturedEvent;
  if (stream.kind == StreamState::legacy) {
    invalidate(capture, "the legacy stream was made to wait for a captured event");
    throw cudaErrorStreamCaptureImplicit;
  }
  if (stream.capture != nullptr && stream.capture != event.capture) {
    invalidate(capture, "two captures were joined");
    invalidate(*stream.capture, "two captures were joined");
    throw cudaErrorStreamCaptureMerge;
  }
  if (capture.invalidated) throw cudaErrorStreamCaptureInvalidated;
  stream.capture = event.capture;
  capture.streams[&stream].join(event.captured);
}

cudaError_t State::begin_capture(ThreadState& thread, StreamState& stream,
                                 cudaStreamCaptureMode mode) {
  if (stream.kind == StreamState::legacy) return cudaErrorStreamCaptureUnsupported;
  if (stream.capture != nullptr) return cudaErrorIllegalState;
  auto capture = std::make_shared<Capture>();
  capture->origin = &stream;
  capture->mode = mode;
  capture->thread = thread.id;
  capture->streams[&stream];
  stream.capture = capture;
  captures.push_back(capture);
  note("capture of " + stream.name() + " begins");
  return cudaSuccess;
}

cudaError_t State::end_capture(ThreadState& thread, StreamState& stream) {
  if (stream.capture == nullptr) return cudaErrorIllegalState;
  const std::shared_ptr<Capture> capture = stream.capture;
  if (capture->origin != &stream) {
    invalidate(*capture, "the capture was ended on another stream than it began on");
    return cudaErrorStreamCaptureUnmatched;
  }
  if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != thread.id) {
    invalidate(*capture, "the capture was ended by another thread than began it");
    return cudaErrorStreamCaptureWrongThread;
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
  if (capture->invalidated) return cudaErrorStreamCaptureInvalidated;
  return joined ? cudaSuccess : cudaErrorStreamCaptureUnjoined;
}

}  // namespace dlbridge::cuda_sim
