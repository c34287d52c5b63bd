// SPDX-License-Identifier: Apache-2.0
#include "copy/issue.h"

#include <algorithm>

#include "runtime/cuda_error.h"

namespace dlbridge::cuda {
namespace {

// Where copies go, and which of their addresses may meet a seam.
struct Way {
  const CudaApi& api;
  const PinnedPool& pool;
  Direction kind;
  CUstream stream;

  // Bytes that one call may take from here on.
  int64_t reach(const std::byte* source, const std::byte* target) const {
    if (kind == Direction::on_device) return INT64_MAX;
    const void* host = kind == Direction::to_host ? target : source;
    const size_t seam = pool.bytes_to_seam(host);
    return seam == 0 ? INT64_MAX : static_cast<int64_t>(seam);
  }
};

void copy_flat(const Way& way, const std::byte* source, std::byte* target, int64_t bytes) {
  while (bytes > 0) {
    const int64_t now = std::min(bytes, way.reach(source, target));
    check(way.api.memcpy_async(target, source, static_cast<size_t>(now), way.stream),
          "cuMemcpyAsync");
    source += now;
    target += now;
    bytes -= now;
  }
}

// The addresses of a copy of rows, as host or device memory.
template <class Parameters>
Parameters sides(const Way& way, const std::byte* source, std::byte* target) {
  Parameters parameters{};
  const bool from_host = way.kind == Direction::to_device;
  parameters.srcMemoryType = from_host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
  (from_host ? parameters.srcHost : parameters.srcDevice) = source;
  const bool to_host = way.kind == Direction::to_host;
  parameters.dstMemoryType = to_host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
  (to_host ? parameters.dstHost : parameters.dstDevice) = target;
  return parameters;
}

void copy_rows(const Way& way, const CopyStep& step, const std::byte* source, std::byte* target) {
  const bool to_host = way.kind == Direction::to_host;
  const int64_t host_pitch = to_host ? step.target_pitch : step.source_pitch;
  int64_t left = step.rows;
  while (left > 0) {
    const int64_t reach = way.reach(source, target);
    // Rows that end before the seam; the one across it goes by itself.
    const int64_t fit = reach < step.width ? 0 : (reach - step.width) / host_pitch + 1;
    const int64_t now = std::min(left, std::max<int64_t>(fit, 1));
    if (fit == 0) {
      copy_flat(way, source, target, step.width);
    } else {
      auto parameters = sides<CUDA_MEMCPY2D>(way, source, target);
      parameters.srcPitch = static_cast<size_t>(step.source_pitch);
      parameters.dstPitch = static_cast<size_t>(step.target_pitch);
      parameters.WidthInBytes = static_cast<size_t>(step.width);
      parameters.Height = static_cast<size_t>(now);
      check(way.api.memcpy_2d_async(&parameters, way.stream), "cuMemcpy2DAsync");
    }
    source += now * step.source_pitch;
    target += now * step.target_pitch;
    left -= now;
  }
}

void copy_boxes(const Way& way, const CopyStep& step) {
  const bool to_host = way.kind == Direction::to_host;
  const int64_t pitch = to_host ? step.target_pitch : step.source_pitch;
  const int64_t plane = to_host ? step.target_plane_bytes : step.source_plane_bytes;
  const int64_t extent = (step.planes - 1) * plane + (step.rows - 1) * pitch + step.width;
  if (way.reach(step.source, step.target) < extent) {
    for (int64_t i = 0; i < step.planes; ++i) {
      copy_rows(way, step, step.source + i * step.source_plane_bytes,
                step.target + i * step.target_plane_bytes);
    }
    return;
  }
  auto parameters = sides<CUDA_MEMCPY3D>(way, step.source, step.target);
  parameters.srcPitch = static_cast<size_t>(step.source_pitch);
  parameters.srcHeight = static_cast<size_t>(step.source_plane_bytes / step.source_pitch);
  parameters.dstPitch = static_cast<size_t>(step.target_pitch);
  parameters.dstHeight = static_cast<size_t>(step.target_plane_bytes / step.target_pitch);
  parameters.WidthInBytes = static_cast<size_t>(step.width);
  parameters.Height = static_cast<size_t>(step.rows);
  parameters.Depth = static_cast<size_t>(step.planes);
  check(way.api.memcpy_3d_async(&parameters, way.stream), "cuMemcpy3DAsync");
}

}  // namespace

void issue(const CudaApi& api, const PinnedPool& pool, const CopyStep& step, Direction kind,
           CUstream stream) {
  const Way way{api, pool, kind, stream};
  switch (step.kind) {
    case CopyKind::flat:
      return copy_flat(way, step.source, step.target, step.bytes);
    case CopyKind::rows:
      return copy_rows(way, step, step.source, step.target);
    case CopyKind::boxes:
      return copy_boxes(way, step);
    case CopyKind::empty:
    case CopyKind::pack:
      return;
  }
}

}  // namespace dlbridge::cuda
