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
  unsigned type = 0;  // a CUmemorytype
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

// Whether memory is where its side of a copy says. A flat copy says nothing.
bool fits(const Side& side, const Place& place) {
  return side.type == 0 || (side.type == CU_MEMORYTYPE_HOST ? place.on_host() : place.on_device());
}

Pageable pageable_way(State& state) {
  constexpr Pageable kWays[] = {Pageable::synchronous, Pageable::staged, Pageable::deferred};
  const Pageable way = state.config.pageable;
  return way == Pageable::drawn ? kWays[state.draw(3)] : way;
}

// Reads the source during the call, as a driver's staging buffer does: after the stream's work.
CUresult copy_staged(Caller& caller, StreamState& stream, const CopyShape& shape,
                     const Side& source, const Side& target, OperationPtr copy) {
  State& state = caller.state;
  if (const CUresult error = state.wait_for(caller.lock, stream.tail); error != CUDA_SUCCESS)
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
  return CUDA_SUCCESS;
}

void check_pitch(Caller& caller, size_t pitch, size_t width, const char* which) {
  if (pitch >= width && pitch <= INT_MAX) return;
  caller.refuse(ReportKind::bad_argument,
                std::string(which) + " pitch " + std::to_string(pitch) + " for rows of " +
                    std::to_string(width) + " bytes",
                CUDA_ERROR_INVALID_VALUE);
}

CUresult copy_async(Caller& caller, const CopyShape& shape, const Side& source, const Side& target,
                    CUstream handle) {
  State& state = caller.state;
  StreamState& stream = caller.usable_stream(handle);
  if (shape.width == 0 || shape.height == 0 || shape.depth == 0) return CUDA_SUCCESS;
  const OperationPtr copy = operation(caller.function);
  for (const Side* side : {&source, &target}) {
    if (side->first == nullptr) caller.refuse(ReportKind::bad_argument, "a null pointer");
    copy->accesses.push_back(state.access(shape.bytes_of(*side), side == &target, stream.device));
    const Place& place = copy->accesses.back().place;
    if (!place.trouble.empty()) caller.refuse(place.report, place.trouble);
  }
  const Access& read = copy->accesses[0];
  const Access& write = copy->accesses[1];
  if (!fits(source, read.place) || !fits(target, write.place))
    caller.refuse(ReportKind::bad_argument, "the types of memory do not fit the addresses");
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
  return way == Pageable::deferred ? CUDA_SUCCESS : state.wait_for(caller.lock, stream.tail);
}

Side side_of(Caller& caller, unsigned type, const void* host, const void* device, size_t pitch,
             size_t height, const CUDA_MEMCPY3D& given, const char* which) {
  check_pitch(caller, pitch, given.WidthInBytes, which);
  if (height < given.Height)
    caller.refuse(ReportKind::bad_argument, std::string(which) + " slices of " +
                                                std::to_string(height) + " rows, not " +
                                                std::to_string(given.Height));
  return {type == CU_MEMORYTYPE_HOST ? host : device, pitch, pitch * height, type};
}

CUresult copy_boxes(Caller& caller, const CUDA_MEMCPY3D& given, CUstream stream) {
  const Side source = side_of(caller, given.srcMemoryType, given.srcHost, given.srcDevice,
                              given.srcPitch, given.srcHeight, given, "source");
  const Side target = side_of(caller, given.dstMemoryType, given.dstHost, given.dstDevice,
                              given.dstPitch, given.dstHeight, given, "target");
  return copy_async(caller, {given.WidthInBytes, given.Height, given.Depth}, source, target,
                    stream);
}

}  // namespace

CUresult memcpy_async(void* target, const void* source, size_t bytes, CUstream stream) {
  return call("memcpy_async", kContext, [&](Caller& caller) {
    return copy_async(caller, {.width = bytes}, {source}, {target}, stream);
  });
}

CUresult memcpy_2d_async(const CUDA_MEMCPY2D* given, CUstream stream) {
  return call("memcpy_2d_async", kContext, [&](Caller& caller) {
    CUDA_MEMCPY3D one{};
    one.srcMemoryType = given->srcMemoryType;
    one.srcHost = given->srcHost;
    one.srcDevice = given->srcDevice;
    one.srcPitch = given->srcPitch;
    one.srcHeight = given->Height;
    one.dstMemoryType = given->dstMemoryType;
    one.dstHost = given->dstHost;
    one.dstDevice = given->dstDevice;
    one.dstPitch = given->dstPitch;
    one.dstHeight = given->Height;
    one.WidthInBytes = given->WidthInBytes;
    one.Height = given->Height;
    one.Depth = 1;
    return copy_boxes(caller, one, stream);
  });
}

CUresult memcpy_3d_async(const CUDA_MEMCPY3D* given, CUstream stream) {
  return call("memcpy_3d_async", kContext,
              [&](Caller& caller) { return copy_boxes(caller, *given, stream); });
}

}  // namespace dlbridge::cuda_sim::functions
