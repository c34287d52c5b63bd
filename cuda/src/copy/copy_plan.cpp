// SPDX-License-Identifier: Apache-2.0
#include "copy/copy_plan.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <climits>
#include <cstdlib>
#include <string>

namespace dlbridge::cuda {
namespace {

// The largest pitch that the driver accepts.
constexpr int64_t kMaxPitch = INT_MAX;
// The largest unit that a thread moves at once.
constexpr uint64_t kMaxUnit = 16;
// Where both extents reach this, tiles are worth their barriers.
constexpr int64_t kMinTiledExtent = 8;
// Elements that are this far apart share no memory transaction.
constexpr int64_t kSectorBytes = 32;

bool is_packed(const TensorView& view) noexcept {
  return DType(view.dtype).is_subbyte() && !view.subbyte_padded;
}

// Two views as nested loops over the same elements.
struct Walk {
  std::byte* source;
  std::byte* target;
  int64_t itemsize;
  int32_t rank = 0;
  // As coalesce() has them. Extents above 1, so there are fewer than 64 of them: their product is a
  // number of bytes.
  std::array<LoopDim, PackParams::kMaxRank> dims;

  bool is_run(const LoopDim& dim) const noexcept {
    return dim.src_stride_bytes == itemsize && dim.dst_stride_bytes == itemsize;
  }
};

// Target strides become positive; dimensions are sorted by them and merged where both sides allow
// it. Requires: not empty.
Walk walk_of(const TensorView& source, const TensorView& target) noexcept {
  std::array<int64_t, PackParams::kMaxRank> shape;
  std::array<int64_t, PackParams::kMaxRank> source_strides;
  std::array<int64_t, PackParams::kMaxRank> target_strides;
  TensorView from = source;
  TensorView to = target;
  from.shape = to.shape = shape.data();
  from.strides = source_strides.data();
  to.strides = target_strides.data();
  int32_t rank = 0;
  Walk walk;
  walk.itemsize = target.itemsize();
  walk.source = static_cast<std::byte*>(source.data);
  walk.target = static_cast<std::byte*>(target.data);
  for (int32_t i = 0; i < target.ndim; ++i) {
    const int64_t last = target.shape[i] - 1;
    if (last == 0) continue;
    const int64_t sign = target.strides[i] < 0 ? -1 : 1;
    if (sign < 0) {
      walk.source += last * source.strides[i] * walk.itemsize;
      walk.target += last * target.strides[i] * walk.itemsize;
    }
    shape[rank] = target.shape[i];
    source_strides[rank] = sign * source.strides[i];
    target_strides[rank++] = sign * target.strides[i];
  }
  from.ndim = to.ndim = rank;
  walk.rank = coalesce(to, from, walk.dims.data());
  return walk;
}

// Packed elements below a byte have no addresses of their own, so strides are not made positive
// here.
void require_one_run(const TensorView& source, const TensorView& target) {
  std::array<LoopDim, PackParams::kMaxRank> dims;
  const int32_t rank = coalesce(target, source, dims.data());
  const int64_t itemsize = target.itemsize();
  if (rank == 0 ||
      (rank == 1 && dims[0].dst_stride_bytes == itemsize && dims[0].src_stride_bytes == itemsize)) {
    return;
  }
  const DType dtype(target.dtype);
  throw Error(
      ErrorCode::packed_subbyte, "dtype",
      "dtype is " + dtype.name() + ", packed at " + std::to_string(dtype.item_bits()) +
          " bits an element, with strides that are not dense and alike on both sides; only "
          "whole bytes can be moved: pass a contiguous array, or one padded to whole bytes");
}

// The runs of a walk (contiguous on both sides) and the dimensions around them.
struct Runs {
  int64_t bytes;
  const LoopDim* outer;
  int32_t rank;
};

Runs runs_of(const Walk& walk) noexcept {
  if (walk.rank > 0 && walk.is_run(walk.dims[0]))
    return {walk.dims[0].extent * walk.itemsize, walk.dims.data() + 1, walk.rank - 1};
  return {walk.itemsize, walk.dims.data(), walk.rank};
}

bool is_pitch(int64_t stride_bytes, int64_t width) noexcept {
  return stride_bytes >= width && stride_bytes <= kMaxPitch;
}

bool is_plane(int64_t stride_bytes, int64_t rows, int64_t pitch) noexcept {
  return stride_bytes % pitch == 0 && stride_bytes / pitch >= rows;
}

bool plan_rows(const Runs& runs, CopyStep& step) noexcept {
  if (runs.rank < 1 || runs.rank > 2) return false;
  const LoopDim& row = runs.outer[0];
  if (!is_pitch(row.src_stride_bytes, runs.bytes) || !is_pitch(row.dst_stride_bytes, runs.bytes))
    return false;
  step.kind = CopyKind::rows;
  step.width = runs.bytes;
  step.rows = row.extent;
  step.source_pitch = row.src_stride_bytes;
  step.target_pitch = row.dst_stride_bytes;
  if (runs.rank == 1) return true;
  const LoopDim& plane = runs.outer[1];
  if (!is_plane(plane.src_stride_bytes, row.extent, row.src_stride_bytes) ||
      !is_plane(plane.dst_stride_bytes, row.extent, row.dst_stride_bytes)) {
    return false;
  }
  step.kind = CopyKind::boxes;
  step.planes = plane.extent;
  step.source_plane_bytes = plane.src_stride_bytes;
  step.target_plane_bytes = plane.dst_stride_bytes;
  return true;
}

// The largest unit that divides a run and at whose multiples all of them begin, on both sides.
int32_t unit_of(const Walk& walk, const Runs& runs) noexcept {
  uint64_t bits = kMaxUnit | static_cast<uint64_t>(runs.bytes) |
                  reinterpret_cast<uintptr_t>(walk.source) |
                  reinterpret_cast<uintptr_t>(walk.target);
  for (int32_t i = 0; i < runs.rank; ++i) {
    bits |= static_cast<uint64_t>(runs.outer[i].src_stride_bytes) |
            static_cast<uint64_t>(runs.outer[i].dst_stride_bytes);
  }
  return 1 << std::countr_zero(bits);
}

bool benefits_from_tiles(const PackParams& params, int32_t dim) noexcept {
  const int64_t stride = std::abs(params.source_stride_bytes[dim]);
  return stride != 0 && stride < kSectorBytes && stride < std::abs(params.source_stride_bytes[0]) &&
         params.extent[0] >= kMinTiledExtent && params.extent[dim] >= kMinTiledExtent;
}

void add_dim(PackParams& params, const LoopDim& dim) noexcept {
  const int32_t at = params.rank++;
  params.extent[at] = dim.extent;
  params.source_stride_bytes[at] = dim.src_stride_bytes;
  params.target_stride_bytes[at] = dim.dst_stride_bytes;
}

void plan_pack(const Walk& walk, const Runs& runs, CopyStep& step) noexcept {
  PackParams& params = step.pack;
  step.kind = CopyKind::pack;
  params.source = walk.source;
  params.target = walk.target;
  params.rank = 0;
  params.element_bytes = unit_of(walk, runs);
  params.count = step.bytes / params.element_bytes;
  if (runs.bytes != params.element_bytes)
    add_dim(params,
            {runs.bytes / params.element_bytes, params.element_bytes, params.element_bytes});
  for (int32_t i = 0; i < runs.rank; ++i) add_dim(params, runs.outer[i]);
  // The dimension that is innermost in the source comes second, where tiles look for it.
  for (int32_t i = 2; i < params.rank; ++i) {
    if (!benefits_from_tiles(params, i)) continue;
    std::swap(params.extent[1], params.extent[i]);
    std::swap(params.source_stride_bytes[1], params.source_stride_bytes[i]);
    std::swap(params.target_stride_bytes[1], params.target_stride_bytes[i]);
    break;
  }
}

}  // namespace

CopyStep plan_copy(const TensorView& source, const TensorView& target, int64_t min_row_bytes) {
  assert(source.ndim == target.ndim);
  CopyStep step;  // not initialised: most of it is not used
  step.source = static_cast<const std::byte*>(source.data);
  step.target = static_cast<std::byte*>(target.data);
  step.bytes = 0;
  step.kind = CopyKind::empty;
  if (target.is_empty()) return step;
  step.bytes = target.nbytes();
  step.kind = CopyKind::flat;
  if (is_packed(target)) {
    require_one_run(source, target);
    return step;
  }
  const Walk walk = walk_of(source, target);
  step.source = walk.source;
  step.target = walk.target;
  const Runs runs = runs_of(walk);
  if (runs.rank == 0) return step;
  if (runs.bytes >= min_row_bytes && plan_rows(runs, step)) return step;
  plan_pack(walk, runs, step);
  return step;
}

KernelId choose_kernel(const PackParams& params) noexcept {
  // A tile has at least kMinTiledExtent squared elements, so their number stays below 2^32.
  constexpr int64_t kMaxTiled = kMinTiledExtent * kMinTiledExtent * (int64_t{1} << 31);
  return params.rank >= 2 && params.count < kMaxTiled && benefits_from_tiles(params, 1)
             ? KernelId::transpose
             : KernelId::strided;
}

Pieces::Pieces(const TensorView& source, const TensorView& target, int64_t max_bytes)
    : source_(source), target_(target) {
  assert(max_bytes > 0 && source.ndim == target.ndim);
  if (target.is_empty()) return;
  Walk walk;
  if (is_packed(target)) {
    require_one_run(source, target);
    source_.dtype = target_.dtype = DType(TypeCode::uint, 8);
    walk.source = static_cast<std::byte*>(source.data);
    walk.target = static_cast<std::byte*>(target.data);
    walk.itemsize = 1;
    walk.rank = 1;
    walk.dims[0] = {target.nbytes(), 1, 1};
  } else {
    walk = walk_of(source, target);
    if (walk.rank == 0) walk.dims[walk.rank++] = {1, walk.itemsize, walk.itemsize};
  }
  source_begin_ = walk.source;
  target_begin_ = walk.target;
  for (int32_t i = 0; i < walk.rank; ++i) {
    const LoopDim& dim = walk.dims[walk.rank - 1 - i];
    whole_[i] = shape_[i] = dim.extent;
    begin_[i] = 0;
    source_strides_[i] = dim.src_stride_bytes / walk.itemsize;
    target_strides_[i] = dim.dst_stride_bytes / walk.itemsize;
  }
  for (TensorView* view : {&source_, &target_}) {
    view->shape = shape_.data();
    view->ndim = walk.rank;
  }
  source_.strides = source_strides_.data();
  target_.strides = target_strides_.data();

  int64_t inner_bytes = walk.itemsize;  // of one index of cut_
  cut_ = walk.rank - 1;
  while (cut_ > 0 && inner_bytes * whole_[cut_] <= max_bytes) inner_bytes *= whole_[cut_--];
  step_ = std::clamp<int64_t>(max_bytes / inner_bytes, 1, whole_[cut_]);
  count_ = (whole_[cut_] - 1) / step_ + 1;
  for (int32_t i = 0; i < cut_; ++i) {
    count_ *= whole_[i];
    shape_[i] = 1;
  }
}

bool Pieces::next() noexcept {
  if (index_ == count_) return false;
  if (index_++ > 0) {
    bytes_before_ += bytes();
    int32_t dim = cut_;
    begin_[dim] += step_;
    while (begin_[dim] >= whole_[dim]) {
      begin_[dim] = 0;
      ++begin_[--dim];
    }
  }
  shape_[cut_] = std::min(step_, whole_[cut_] - begin_[cut_]);
  int64_t source_offset = 0;
  int64_t target_offset = 0;
  for (int32_t i = 0; i <= cut_; ++i) {
    source_offset += begin_[i] * source_strides_[i];
    target_offset += begin_[i] * target_strides_[i];
  }
  source_.data = source_begin_ + source_offset * source_.itemsize();
  target_.data = target_begin_ + target_offset * target_.itemsize();
  return true;
}

}  // namespace dlbridge::cuda
