// SPDX-License-Identifier: Apache-2.0
#include "copy/issue.h"

#include <algorithm>

#include "runtime/cuda_error.h"

namespace dlbridge::cuda {
namespace {

// One copy, and where it goes.
struct Way {
  const CudaApi& api;
  const PinnedPool& pool;
  const std::array<LoopDim, 3>& dims;  // of the step
  Direction kind;
  CUstream stream;

  int64_t host_stride(size_t dim) const {
    return kind == Direction::to_host ? dims[dim].dst_stride_bytes : dims[dim].src_stride_bytes;
  }

  // Bytes that one call may take from here on.
  int64_t reach(const std::byte* source, const std::byte* target) const {
    if (kind == Direction::on_device) return INT64_MAX;
    const void* host = kind == Direction::to_host ? target : source;
    const size_t seam = pool.bytes_to_seam(host);
    return seam == 0 ? INT64_MAX : static_cast<int64_t>(seam);
  }
};

// What the parameters of copies of rows and of planes have in common.
template <class Parameters>
Parameters parameters_of(const Way& way, const std::byte* source, std::byte* target, int64_t rows) {
  Parameters parameters{};
  const bool from_host = way.kind == Direction::to_device;
  parameters.srcMemoryType = from_host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
  (from_host ? parameters.srcHost : parameters.srcDevice) = source;
  parameters.srcPitch = static_cast<size_t>(way.dims[1].src_stride_bytes);
  const bool to_host = way.kind == Direction::to_host;
  parameters.dstMemoryType = to_host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
  (to_host ? parameters.dstHost : parameters.dstDevice) = target;
  parameters.dstPitch = static_cast<size_t>(way.dims[1].dst_stride_bytes);
  parameters.WidthInBytes = static_cast<size_t>(way.dims[0].extent);
  parameters.Height = static_cast<size_t>(rows);
  return parameters;
}

// Enqueues `count` bytes, rows or planes by one call.
void copy_by_one_call(const Way& way, size_t dim, int64_t count, const std::byte* source,
                      std::byte* target) {
  if (dim == 0) {
    check(way.api.memcpy_async(target, source, static_cast<size_t>(count), way.stream),
          "cuMemcpyAsync");
  } else if (dim == 1) {
    const auto parameters = parameters_of<CUDA_MEMCPY2D>(way, source, target, count);
    check(way.api.memcpy_2d_async(&parameters, way.stream), "cuMemcpy2DAsync");
  } else {
    const auto& [bytes, rows, planes] = way.dims;
    auto parameters = parameters_of<CUDA_MEMCPY3D>(way, source, target, rows.extent);
    parameters.srcHeight = static_cast<size_t>(planes.src_stride_bytes / rows.src_stride_bytes);
    parameters.dstHeight = static_cast<size_t>(planes.dst_stride_bytes / rows.dst_stride_bytes);
    parameters.Depth = static_cast<size_t>(count);
    check(way.api.memcpy_3d_async(&parameters, way.stream), "cuMemcpy3DAsync");
  }
}

// Enqueues the loops up to `dim`. What lies across a seam goes by itself, one dimension lower.
void copy_to_seams(const Way& way, size_t dim, const std::byte* source, std::byte* target) {
  int64_t span = 1;  // bytes of host memory from the begin to the end of one byte, row or plane
  for (size_t i = 0; i < dim; ++i) span += (way.dims[i].extent - 1) * way.host_stride(i);
  int64_t left = way.dims[dim].extent;
  while (left > 0) {
    const int64_t reach = way.reach(source, target);
    const int64_t fit = reach < span ? 0 : (reach - span) / way.host_stride(dim) + 1;
    const int64_t now = std::min(left, std::max<int64_t>(fit, 1));
    if (dim > 0 && fit == 0)
      copy_to_seams(way, dim - 1, source, target);
    else
      copy_by_one_call(way, dim, now, source, target);
    source += now * way.dims[dim].src_stride_bytes;
    target += now * way.dims[dim].dst_stride_bytes;
    left -= now;
  }
}

}  // namespace

void issue(const CudaApi& api, const PinnedPool& pool, const CopyStep& step, Direction kind,
           CUstream stream) {
  const Way way{api, pool, step.dims, kind, stream};
  switch (step.kind) {
    case CopyKind::flat:
      return copy_to_seams(way, 0, step.source, step.target);
    case CopyKind::rows:
      return copy_to_seams(way, 1, step.source, step.target);
    case CopyKind::boxes:
      return copy_to_seams(way, 2, step.source, step.target);
    case CopyKind::empty:
    case CopyKind::pack:
      return;
  }
}

}  // namespace dlbridge::cuda
