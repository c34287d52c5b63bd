// SPDX-License-Identifier: Apache-2.0
#include "copies.h"

#include <climits>
#include <cstring>

namespace dlbridge::cuda_sim {
namespace {

ByteSet bytes_of(const void* first, const CopyShape& shape, size_t row, size_t slice) {
  ByteSet bytes(first, shape.width);
  bytes.repeat(static_cast<int64_t>(shape.height), static_cast<int64_t>(row));
  bytes.repeat(static_cast<int64_t>(shape.depth), static_cast<int64_t>(slice));
  return bytes;
}

void copy_now(const CopyShape& shape, uintptr_t source_alias, uintptr_t target_alias) {
  const auto* source =
      reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(shape.source) + source_alias);
  auto* target = reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(shape.target) + target_alias);
  for (size_t z = 0; z < shape.depth; ++z) {
    for (size_t y = 0; y < shape.height; ++y) {
      std::memcpy(target + z * shape.target_slice + y * shape.target_row,
                  source + z * shape.source_slice + y * shape.source_row, shape.width);
    }
  }
}

bool kind_fits(cudaMemcpyKind kind, const Place& source, const Place& target) {
  switch (kind) {
    case cudaMemcpyDefault:
      return true;
    case cudaMemcpyHostToDevice:
      return source.on_host() && target.on_device();
    case cudaMemcpyDeviceToHost:
      return source.on_device() && target.on_host();
    case cudaMemcpyDeviceToDevice:
      return source.on_device() && target.on_device();
    case cudaMemcpyHostToHost:
      return source.on_host() && target.on_host();
  }
  return false;
}

cudaError_t refuse(Caller& caller, ReportKind kind, const std::string& why,
                   cudaError_t code = cudaErrorInvalidValue) {
  caller.state.report(kind, std::string(caller.function) + ": " + why);
  return code;
}

Pageable pageable_way(State& state) {
  if (state.config.pageable != Pageable::drawn) return state.config.pageable;
  switch (state.draw(3)) {
    case 0:
      return Pageable::synchronous;
    case 1:
      return Pageable::staged;
    default:
      return Pageable::deferred;
  }
}

// Reads the source during the call, as a driver's staging buffer does: after the stream's work.
cudaError_t copy_staged(Caller& caller, StreamState& stream, const CopyShape& shape, Draft draft) {
  State& state = caller.state;
  if (const cudaError_t error = state.wait_for(caller.lock, stream.tail); error != cudaSuccess) {
    return error;
  }
  const Access& read = draft.accesses[0];
  state.host_access(read.bytes, false, draft.text, ReportKind::race);
  auto rows = std::make_shared<std::vector<char>>(shape.width * shape.height * shape.depth);
  CopyShape in = shape;
  in.target = rows->data();
  in.target_row = shape.width;
  in.target_slice = shape.width * shape.height;
  copy_now(in, read.alias(), 0);
  CopyShape out = shape;
  out.source = rows->data();
  out.source_row = in.target_row;
  out.source_slice = in.target_slice;
  draft.accesses.erase(draft.accesses.begin());
  const uintptr_t alias = draft.accesses[0].alias();
  draft.run = [rows, out, alias] { copy_now(out, 0, alias); };
  submit(caller, stream, std::move(draft));
  return cudaSuccess;
}

}  // namespace

cudaError_t check_pitch(Caller& caller, size_t pitch, size_t width, const char* which) {
  if (pitch >= width && pitch <= INT_MAX) return cudaSuccess;
  return refuse(caller, ReportKind::bad_argument,
                std::string(which) + " pitch " + std::to_string(pitch) + " for rows of " +
                    std::to_string(width) + " bytes",
                cudaErrorInvalidPitchValue);
}

cudaError_t copy_async(Caller& caller, const CopyShape& shape, cudaMemcpyKind kind,
                       cudaStream_t handle) {
  State& state = caller.state;
  cudaError_t error;
  StreamState* stream = usable_stream(caller, handle, error);
  if (stream == nullptr) return error;
  if (shape.width == 0 || shape.height == 0 || shape.depth == 0) return cudaSuccess;
  if (shape.source == nullptr || shape.target == nullptr) {
    return refuse(caller, ReportKind::bad_argument, "a null pointer");
  }
  Draft draft;
  draft.accesses.push_back(state.access(
      bytes_of(shape.source, shape, shape.source_row, shape.source_slice), false, stream->device));
  draft.accesses.push_back(state.access(
      bytes_of(shape.target, shape, shape.target_row, shape.target_slice), true, stream->device));
  const Place& source = draft.accesses[0].place;
  const Place& target = draft.accesses[1].place;
  for (const Place* place : {&source, &target}) {
    if (!place->trouble.empty()) return refuse(caller, place->report, place->trouble);
  }
  if (!kind_fits(kind, source, target)) {
    return refuse(caller, ReportKind::bad_argument,
                  "kind " + std::to_string(kind) + " does not fit the pointers",
                  kind < 0 || kind > cudaMemcpyDefault ? cudaErrorInvalidMemcpyDirection
                                                       : cudaErrorInvalidValue);
  }
  if (draft.accesses[0].bytes.overlaps(draft.accesses[1].bytes)) {
    return refuse(caller, ReportKind::bad_argument, "source and target overlap");
  }
  draft.text = std::string(caller.function) + " " + hex(draft.accesses[0].bytes.begin()) + " to " +
               hex(draft.accesses[1].bytes.begin()) + ", " +
               std::to_string(shape.width * shape.height * shape.depth) + " bytes,";
  const uintptr_t from = draft.accesses[0].alias();
  const uintptr_t to = draft.accesses[1].alias();
  draft.run = [shape, from, to] { copy_now(shape, from, to); };

  const bool pageable = source.kind == Place::pageable || target.kind == Place::pageable;
  const Pageable way =
      pageable && stream->capture == nullptr ? pageable_way(state) : Pageable::deferred;
  const bool staged =
      way == Pageable::staged && source.kind == Place::pageable && target.kind != Place::pageable;
  if (staged) return copy_staged(caller, *stream, shape, std::move(draft));
  submit(caller, *stream, std::move(draft));
  if (way == Pageable::deferred) return cudaSuccess;
  return state.wait_for(caller.lock, stream->tail);
}

}  // namespace dlbridge::cuda_sim
