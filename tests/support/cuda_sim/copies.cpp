// SPDX-License-Identifier: Apache-2.0
// The copies, as the table offers them: what they touch, what CUDA refuses, when a pageable one
// happens.
#include <climits>
#include <cstring>

#include "call.h"

namespace dlbridge::cuda_sim::functions {
namespace {

/// Where rows of `width` bytes lie, in slices of `height` rows.
struct Side {
  const void* first = nullptr;
  size_t row = 0;  // bytes from row to row
  size_t slice = 0;
};

struct CopyShape {
  size_t width = 0;
  size_t height = 1;
  size_t depth = 1;

  ByteSet bytes_of(const Side& side) const {
    ByteSet bytes(side.first, width);
    bytes.repeat(static_cast<int64_t>(height), static_cast<int64_t>(side.row));
    bytes.repeat(static_cast<int64_t>(depth), static_cast<int64_t>(side.slice));
    return bytes;
  }
};

// The aliases are what to add to the addresses.
void copy_now(const CopyShape& shape, const Side& source, uintptr_t source_alias,
              const Side& target, uintptr_t target_alias) {
  const auto at = [](const Side& side, uintptr_t alias, size_t z, size_t y) {
    return reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(side.first) + alias +
                                   z * side.slice + y * side.row);
  };
  for (size_t z = 0; z < shape.depth; ++z) {
    for (size_t y = 0; y < shape.height; ++y)
      std::memcpy(at(target, target_alias, z, y), at(source, source_alias, z, y), shape.width);
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

Pageable pageable_way(State& state) {
  constexpr Pageable kWays[] = {Pageable::synchronous, Pageable::staged, Pageable::deferred};
  const Pageable way = state.config.pageable;
  return way == Pageable::drawn ? kWays[state.draw(3)] : way;
}

// Reads the source during the call, as a driver's staging buffer does: after the stream's work.
cudaError_t copy_staged(Caller& caller, StreamState& stream, const CopyShape& shape,
                        const Side& source, const Side& target, OperationPtr copy) {
  State& state = caller.state;
  if (const cudaError_t error = state.wait_for(caller.lock, stream.tail); error != cudaSuccess)
    return error;
  const Access& read = copy->accesses[0];
  state.host_access(read.bytes, false, copy->text, ReportKind::race);
  const auto rows = std::make_shared<std::vector<char>>(shape.width * shape.height * shape.depth);
  const Side between = {rows->data(), shape.width, shape.width * shape.height};
  copy_now(shape, source, read.alias(), between, 0);
  copy->accesses.erase(copy->accesses.begin());
  copy->run = [=, to = copy->accesses[0].alias()] {
    static_cast<void>(rows);  // kept
    copy_now(shape, between, 0, target, to);
  };
  caller.submit(stream, std::move(copy));
  return cudaSuccess;
}

void check_pitch(Caller& caller, size_t pitch, size_t width, const char* which) {
  if (pitch >= width && pitch <= INT_MAX) return;
  caller.refuse(ReportKind::bad_argument,
                std::string(which) + " pitch " + std::to_string(pitch) + " for rows of " +
                    std::to_string(width) + " bytes",
                cudaErrorInvalidPitchValue);
}

cudaError_t copy_async(Caller& caller, const CopyShape& shape, const Side& source,
                       const Side& target, cudaMemcpyKind kind, cudaStream_t handle) {
  State& state = caller.state;
  StreamState& stream = caller.usable_stream(handle);
  if (shape.width == 0 || shape.height == 0 || shape.depth == 0) return cudaSuccess;
  const OperationPtr copy = operation(caller.function);
  for (const Side* side : {&source, &target}) {
    if (side->first == nullptr) caller.refuse(ReportKind::bad_argument, "a null pointer");
    copy->accesses.push_back(state.access(shape.bytes_of(*side), side == &target, stream.device));
    const Place& place = copy->accesses.back().place;
    if (!place.trouble.empty()) caller.refuse(place.report, place.trouble);
  }
  const Access& read = copy->accesses[0];
  const Access& write = copy->accesses[1];
  if (!kind_fits(kind, read.place, write.place)) {
    caller.refuse(ReportKind::bad_argument,
                  "kind " + std::to_string(kind) + " does not fit the pointers",
                  kind < 0 || kind > cudaMemcpyDefault ? cudaErrorInvalidMemcpyDirection
                                                       : cudaErrorInvalidValue);
  }
  if (read.bytes.overlaps(write.bytes))
    caller.refuse(ReportKind::bad_argument, "source and target overlap");
  copy->text += " " + hex(read.bytes.begin()) + " to " + hex(write.bytes.begin()) + ", " +
                std::to_string(shape.width * shape.height * shape.depth) + " bytes,";
  copy->run = [=, from = read.alias(), to = write.alias()] {
    copy_now(shape, source, from, target, to);
  };
  const bool from_pageable = read.place.kind == Place::pageable;
  const bool to_pageable = write.place.kind == Place::pageable;
  const Pageable way = (from_pageable || to_pageable) && stream.capture == nullptr
                           ? pageable_way(state)
                           : Pageable::deferred;
  if (way == Pageable::staged && from_pageable && !to_pageable)
    return copy_staged(caller, stream, shape, source, target, copy);
  caller.submit(stream, copy);
  return way == Pageable::deferred ? cudaSuccess : state.wait_for(caller.lock, stream.tail);
}

}  // namespace

cudaError_t memcpy_async(void* target, const void* source, size_t bytes, cudaMemcpyKind kind,
                         cudaStream_t stream) {
  return call("memcpy_async", kContext, [&](Caller& caller) {
    return copy_async(caller, {.width = bytes}, {source}, {target}, kind, stream);
  });
}

cudaError_t memcpy_2d_async(void* target, size_t target_pitch, const void* source,
                            size_t source_pitch, size_t width, size_t height, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return call("memcpy_2d_async", kContext, [&](Caller& caller) {
    check_pitch(caller, target_pitch, width, "target");
    check_pitch(caller, source_pitch, width, "source");
    return copy_async(caller, {.width = width, .height = height}, {source, source_pitch},
                      {target, target_pitch}, kind, stream);
  });
}

cudaError_t memcpy_3d_async(const cudaMemcpy3DParms* given, cudaStream_t stream) {
  return call("memcpy_3d_async", kContext, [&](Caller& caller) {
    const cudaMemcpy3DParms parms = *given;
    if (parms.srcArray != nullptr || parms.dstArray != nullptr)
      caller.refuse(ReportKind::bad_argument, "arrays are not simulated", cudaErrorNotSupported);
    const auto side = [&](const cudaPitchedPtr& memory, const cudaPos& from, const char* which) {
      check_pitch(caller, memory.pitch, parms.extent.width + from.x, which);
      const size_t rows = parms.extent.height + from.y;
      if (memory.ysize < rows)
        caller.refuse(ReportKind::bad_argument, std::string(which) + " slices of " +
                                                    std::to_string(memory.ysize) + " rows, not " +
                                                    std::to_string(rows));
      const size_t slice = memory.pitch * memory.ysize;
      return Side{
          static_cast<const char*>(memory.ptr) + from.z * slice + from.y * memory.pitch + from.x,
          memory.pitch, slice};
    };
    const Side source = side(parms.srcPtr, parms.srcPos, "source");
    const Side target = side(parms.dstPtr, parms.dstPos, "target");
    return copy_async(caller, {parms.extent.width, parms.extent.height, parms.extent.depth}, source,
                      target, parms.kind, stream);
  });
}

}  // namespace dlbridge::cuda_sim::functions
