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

  char* at(size_t z, size_t y) const {
    return reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(first) + z * slice + y * row);
  }
  /// With its bytes where the host may touch them.
  Side for_host(const Access& access) const {
    Side moved = *this;
    moved.first = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(first) + access.alias());
    return moved;
  }
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
  void copy(const Side& source, const Side& target) const {
    for (size_t z = 0; z < depth; ++z) {
      for (size_t y = 0; y < height; ++y) std::memcpy(target.at(z, y), source.at(z, y), width);
    }
  }
};

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
void copy_staged(Caller& caller, StreamState& stream, const CopyShape& shape, const Side& source,
                 const Side& target, const OperationPtr& copy) {
  State& state = caller.state;
  check(state.wait_for(caller.lock, stream.tail));
  const Access& read = copy->accesses[0];
  state.host_access(read.bytes, false, copy->text, ReportKind::race);
  const auto rows = std::make_shared<std::vector<char>>(shape.width * shape.height * shape.depth);
  const Side between = {rows->data(), shape.width, shape.width * shape.height};
  shape.copy(source.for_host(read), between);
  copy->accesses.erase(copy->accesses.begin());
  copy->run = [=, to = target.for_host(copy->accesses[0])] {
    static_cast<void>(rows);  // kept
    shape.copy(between, to);
  };
  caller.submit(stream, copy);
}

void copy_async(Caller& caller, const CopyShape& shape, const Side& source, const Side& target,
                CUstream handle) {
  State& state = caller.state;
  StreamState& stream = caller.usable_stream(handle);
  if (shape.width == 0 || shape.height == 0 || shape.depth == 0) return;
  const OperationPtr copy = operation(std::string(caller.function));
  for (const Side* side : {&source, &target}) {
    if (side->first == nullptr) caller.refuse(ReportKind::bad_argument, "a null pointer");
    copy->accesses.push_back(state.access(shape.bytes_of(*side), side == &target, stream.device));
    const Place& place = copy->accesses.back().place;
    if (!place.trouble.empty()) caller.refuse(place.report, place.trouble);
    if (!fits(*side, place))
      caller.refuse(ReportKind::bad_argument, "the types of memory do not fit the addresses");
  }
  const Access& read = copy->accesses[0];
  const Access& write = copy->accesses[1];
  if (read.bytes.overlaps(write.bytes))
    caller.refuse(ReportKind::bad_argument, "source and target overlap");
  copy->text += " " + hex(read.bytes.begin()) + " to " + hex(write.bytes.begin()) + ", " +
                std::to_string(shape.width * shape.height * shape.depth) + " bytes,";
  copy->run = [shape, from = source.for_host(read), to = target.for_host(write)] {
    shape.copy(from, to);
  };
  const bool from_pageable = read.place.kind == Place::pageable;
  const bool to_pageable = write.place.kind == Place::pageable;
  const Pageable way = (from_pageable || to_pageable) && stream.capture == nullptr
                           ? pageable_way(state)
                           : Pageable::deferred;
  if (way == Pageable::staged && from_pageable && !to_pageable)
    return copy_staged(caller, stream, shape, source, target, copy);
  caller.submit(stream, copy);
  if (way != Pageable::deferred) check(state.wait_for(caller.lock, stream.tail));
}

/// Heights are rows of a slice, as they lie in memory.
template <class Given>
void copy_boxes(Caller& caller, const Given& given, size_t source_height, size_t target_height,
                size_t depth, CUstream stream) {
  const auto side = [&](unsigned type, const void* host, const void* device, size_t pitch,
                        size_t height) -> Side {
    if (pitch < given.WidthInBytes || pitch > INT_MAX || height < given.Height)
      caller.refuse(ReportKind::bad_argument, "pitch " + std::to_string(pitch) + " and height " +
                                                  std::to_string(height) + " for rows of " +
                                                  std::to_string(given.WidthInBytes) + " bytes");
    return {type == CU_MEMORYTYPE_HOST ? host : device, pitch, pitch * height, type};
  };
  copy_async(
      caller, {given.WidthInBytes, given.Height, depth},
      side(given.srcMemoryType, given.srcHost, given.srcDevice, given.srcPitch, source_height),
      side(given.dstMemoryType, given.dstHost, given.dstDevice, given.dstPitch, target_height),
      stream);
}

}  // namespace

void memcpy_async(Caller& caller, void* target, const void* source, size_t bytes, CUstream stream) {
  copy_async(caller, {.width = bytes}, {source}, {target}, stream);
}

void memcpy_2d_async(Caller& caller, const CUDA_MEMCPY2D* given, CUstream stream) {
  copy_boxes(caller, *given, given->Height, given->Height, 1, stream);
}

void memcpy_3d_async(Caller& caller, const CUDA_MEMCPY3D* given, CUstream stream) {
  copy_boxes(caller, *given, given->srcHeight, given->dstHeight, given->Depth, stream);
}

}  // namespace dlbridge::cuda_sim::functions
