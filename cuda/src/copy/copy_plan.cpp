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

// Two views as nested loops around runs, which are contiguous on both sides.
struct Walk {
  std::byte* source;
  std::byte* target;
  int64_t itemsize;  // packed sub-byte types: of bytes
  int64_t run_bytes;
  int32_t rank;
  // The loops around a run, as coalesce() has them. Extents above 1, so there are fewer than 63 of
  // them: their product is a number of bytes.
  std::array<LoopDim, PackParams::kMaxRank> dims;
};

// Target strides become positive, but for elements without addresses; dimensions are sorted by them
// and merged where both sides allow it. Requires: not empty. Throws what plan_copy() does.
Walk walk_of(const TensorView& source, const TensorView& target) {
  std::array<int64_t, PackParams::kMaxRank> shape;
  std::array<int64_t, PackParams::kMaxRank> source_strides;
  std::array<int64_t, PackParams::kMaxRank> target_strides;
  TensorView from = source;
  TensorView to = target;
  from.shape = to.shape = shape.data();
  from.strides = source_strides.data();
  to.strides = target_strides.data();
  int32_t rank = 0;
  const bool packed = is_packed(target);
  Walk walk;  // not initialised: most of it is not used
  walk.itemsize = walk.run_bytes = target.itemsize();
  walk.source = static_cast<std::byte*>(source.data);
  walk.target = static_cast<std::byte*>(target.data);
  for (int32_t i = 0; i < target.ndim; ++i) {
    const int64_t last = target.shape[i] - 1;
    if (last == 0) continue;
    const int64_t sign = target.strides[i] < 0 && !packed ? -1 : 1;
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
  const LoopDim& inner = walk.dims[0];
  if (walk.rank > 0 && inner.src_stride_bytes == walk.itemsize &&
      inner.dst_stride_bytes == walk.itemsize) {
    walk.run_bytes *= inner.extent;
    std::copy_n(walk.dims.begin() + 1, --walk.rank, walk.dims.begin());
  }
  if (packed && walk.rank > 0) {
    const DType dtype(target.dtype);
    throw Error(
        ErrorCode::packed_subbyte, "dtype",
        "dtype is " + dtype.name() + ", packed at " + std::to_string(dtype.item_bits()) +
            " bits an element, with strides that are not dense and alike on both sides; only "
            "whole bytes can be moved: pass a contiguous array, or one padded to whole bytes");
  }
  if (packed) {
    walk.itemsize = 1;
    walk.run_bytes = target.nbytes();
  }
  return walk;
}

bool is_pitch(int64_t stride_bytes, int64_t width) noexcept {
  return stride_bytes >= width && stride_bytes <= kMaxPitch;
}

bool is_plane(int64_t stride_bytes, int64_t rows, int64_t pitch) noexcept {
  return stride_bytes % pitch == 0 && stride_bytes / pitch >= rows;
}

bool plan_rows(const Walk& walk, CopyStep& step) noexcept {
  if (walk.rank < 1 || walk.rank > 2) return false;
  const LoopDim& row = walk.dims[0];
  if (!is_pitch(row.src_stride_bytes, walk.run_bytes) ||
      !is_pitch(row.dst_stride_bytes, walk.run_bytes)) {
    return false;
  }
  step.dims = {{{walk.run_bytes, 1, 1}, row, {}}};
  step.kind = CopyKind::rows;
  if (walk.rank == 1) return true;
  const LoopDim& plane = walk.dims[1];
  if (!is_plane(plane.src_stride_bytes, row.extent, row.src_stride_bytes) ||
      !is_plane(plane.dst_stride_bytes, row.extent, row.dst_stride_bytes)) {
    return false;
  }
  step.dims[2] = plane;
  step.kind = CopyKind::boxes;
  return true;
}

// The largest unit that divides a run and at whose multiples all of them begin, on both sides.
int32_t unit_of(const Walk& walk) noexcept {
  uint64_t bits = kMaxUnit | static_cast<uint64_t>(walk.run_bytes) |
                  reinterpret_cast<uintptr_t>(walk.source) |
                  reinterpret_cast<uintptr_t>(walk.target);
  for (int32_t i = 0; i < walk.rank; ++i) {
    bits |= static_cast<uint64_t>(walk.dims[i].src_stride_bytes) |
            static_cast<uint64_t>(walk.dims[i].dst_stride_bytes);
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

void plan_pack(const Walk& walk, CopyStep& step) noexcept {
  PackParams& params = step.pack;
  step.kind = CopyKind::pack;
  params.source = walk.source;
  params.target = walk.target;
  params.rank = 0;
  params.element_bytes = unit_of(walk);
  params.count = step.bytes / params.element_bytes;
  const int64_t unit = params.element_bytes;
  if (walk.run_bytes != unit) add_dim(params, {walk.run_bytes / unit, unit, unit});
  for (int32_t i = 0; i < walk.rank; ++i) add_dim(params, walk.dims[i]);
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

bool is_packed(const TensorView& view) noexcept {
  return DType(view.dtype).is_subbyte() && !view.subbyte_padded;
}

CopyStep flat_copy(const void* source, void* target, int64_t bytes) noexcept {
  CopyStep step;  // not initialised: most of it is not used
  step.kind = CopyKind::flat;
  step.source = static_cast<const std::byte*>(source);
  step.target = static_cast<std::byte*>(target);
  step.bytes = bytes;
  step.dims[0] = {bytes, 1, 1};
  return step;
}

CopyStep plan_copy(const TensorView& source, const TensorView& target, int64_t min_row_bytes) {
  assert(source.ndim == target.ndim);
  if (target.is_empty()) {
    CopyStep step = flat_copy(source.data, target.data, 0);
    step.kind = CopyKind::empty;
    return step;
  }
  const Walk walk = walk_of(source, target);
  CopyStep step = flat_copy(walk.source, walk.target, target.nbytes());
  if (walk.rank == 0) return step;
  if (walk.run_bytes >= min_row_bytes && plan_rows(walk, step)) return step;
  plan_pack(walk, step);
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
  const Walk walk = walk_of(source, target);
  if (is_packed(target)) source_.dtype = target_.dtype = DType(TypeCode::uint, 8);
  source_begin_ = walk.source;
  target_begin_ = walk.target;
  int32_t rank = 0;
  const auto add_inside = [&](const LoopDim& dim) {
    whole_[rank] = shape_[rank] = dim.extent;
    source_strides_[rank] = dim.src_stride_bytes / walk.itemsize;
    target_strides_[rank++] = dim.dst_stride_bytes / walk.itemsize;
  };
  for (int32_t i = walk.rank - 1; i >= 0; --i) add_inside(walk.dims[i]);
  add_inside({walk.run_bytes / walk.itemsize, walk.itemsize, walk.itemsize});
  for (TensorView* view : {&source_, &target_}) {
    view->shape = shape_.data();
    view->ndim = rank;
  }
  source_.strides = source_strides_.data();
  target_.strides = target_strides_.data();

  int64_t inner_bytes = walk.itemsize;  // of one index of cut_
  cut_ = rank - 1;
  while (cut_ > 0 && inner_bytes * whole_[cut_] <= max_bytes) inner_bytes *= whole_[cut_--];
  step_ = std::clamp<int64_t>(max_bytes / inner_bytes, 1, whole_[cut_]);
  steps_ = (whole_[cut_] - 1) / step_ + 1;
  count_ = steps_;
  for (int32_t i = 0; i < cut_; ++i) {
    count_ *= whole_[i];
    shape_[i] = 1;
  }
}

bool Pieces::next() noexcept {
  if (index_ == count_) return false;
  const int64_t begin = index_ % steps_ * step_;
  int64_t outside = index_++ / steps_;
  shape_[cut_] = std::min(step_, whole_[cut_] - begin);
  int64_t source_offset = begin * source_strides_[cut_];
  int64_t target_offset = begin * target_strides_[cut_];
  for (int32_t i = cut_ - 1; i >= 0; --i) {
    source_offset += outside % whole_[i] * source_strides_[i];
    target_offset += outside % whole_[i] * target_strides_[i];
    outside /= whole_[i];
  }
  source_.data = source_begin_ + source_offset * source_.itemsize();
  target_.data = target_begin_ + target_offset * target_.itemsize();
  return true;
}

}  // namespace dlbridge::cuda
