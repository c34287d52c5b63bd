// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/copy.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "dlbridge/layout.h"

namespace dlbridge {
namespace {

// Below this many bytes a thread costs more than it saves.
constexpr int64_t kBytesPerThread = int64_t{1} << 20;
constexpr int64_t kMaxThreads = 16;
// Elements along each side of a transposed tile: a tile's lines stay in the first-level cache.
constexpr int64_t kTile = 32;
// The longest contiguous run that is treated as one element.
constexpr int64_t kLongestElement = 16;

// A copy as nested loops; index 0 is innermost in the destination.
struct Loops {
  char* dst;
  const char* src;
  const LoopDim* dims;
  int32_t count;
  int64_t itemsize;
};

template <int64_t kSize>
struct Element {
  static void copy(char* dst, const char* src, int64_t) noexcept { std::memcpy(dst, src, kSize); }
};
template <>
struct Element<0> {
  static void copy(char* dst, const char* src, int64_t size) noexcept {
    std::memcpy(dst, src, static_cast<size_t>(size));
  }
};

template <int64_t kSize>
void copy_row(char* dst, const char* src, const LoopDim& dim, int64_t itemsize) noexcept {
  if (dim.dst_stride_bytes == itemsize && dim.src_stride_bytes == itemsize) {
    std::memcpy(dst, src, static_cast<size_t>(dim.extent * itemsize));
    return;
  }
  for (int64_t i = 0; i < dim.extent; ++i) {
    Element<kSize>::copy(dst + i * dim.dst_stride_bytes, src + i * dim.src_stride_bytes, itemsize);
  }
}

// Two dimensions of which one is contiguous on each side: walked in tiles, so that neither side is
// read or written a whole cache line for one element.
template <int64_t kSize>
void copy_tiles(char* dst, const char* src, const LoopDim& a, const LoopDim& b,
                int64_t itemsize) noexcept {
  for (int64_t bb = 0; bb < b.extent; bb += kTile) {
    const int64_t b_end = std::min(b.extent, bb + kTile);
    for (int64_t aa = 0; aa < a.extent; aa += kTile) {
      const int64_t a_end = std::min(a.extent, aa + kTile);
      for (int64_t j = bb; j < b_end; ++j) {
        char* to = dst + j * b.dst_stride_bytes;
        const char* from = src + j * b.src_stride_bytes;
        for (int64_t i = aa; i < a_end; ++i) {
          Element<kSize>::copy(to + i * a.dst_stride_bytes, from + i * a.src_stride_bytes,
                               itemsize);
        }
      }
    }
  }
}

// The dimension that is contiguous in the source, if it is not the innermost one: the partner of a
// tiled walk.
int32_t transposed_partner(const Loops& loops) noexcept {
  if (loops.count < 2 || loops.dims[0].src_stride_bytes == loops.itemsize) return -1;
  int32_t partner = -1;
  for (int32_t i = 1; i < loops.count; ++i) {
    if (std::abs(loops.dims[i].src_stride_bytes) >= std::abs(loops.dims[0].src_stride_bytes))
      continue;
    if (partner < 0 ||
        std::abs(loops.dims[i].src_stride_bytes) < std::abs(loops.dims[partner].src_stride_bytes)) {
      partner = i;
    }
  }
  return partner;
}

template <int64_t kSize>
void walk(char* dst, const char* src, const Loops& loops, int32_t depth, int32_t partner) noexcept {
  if (depth == partner) return walk<kSize>(dst, src, loops, depth - 1, partner);
  if (depth == 0) {
    if (partner > 0)
      copy_tiles<kSize>(dst, src, loops.dims[0], loops.dims[partner], loops.itemsize);
    else
      copy_row<kSize>(dst, src, loops.dims[0], loops.itemsize);
    return;
  }
  const LoopDim& dim = loops.dims[depth];
  for (int64_t i = 0; i < dim.extent; ++i) {
    walk<kSize>(dst + i * dim.dst_stride_bytes, src + i * dim.src_stride_bytes, loops, depth - 1,
                partner);
  }
}

// A short run that is contiguous on both sides (the three bytes of a pixel) is copied as if it were
// one element: a call of memcpy a run would cost more than the run.
Loops fold_short_runs(Loops loops) noexcept {
  while (loops.count > 1 && loops.dims[0].dst_stride_bytes == loops.itemsize &&
         loops.dims[0].src_stride_bytes == loops.itemsize &&
         loops.dims[0].extent * loops.itemsize <= kLongestElement) {
    loops.itemsize *= loops.dims[0].extent;
    ++loops.dims;
    --loops.count;
  }
  return loops;
}

void run(const Loops& unfolded) noexcept {
  if (unfolded.count == 0) {
    std::memcpy(unfolded.dst, unfolded.src, static_cast<size_t>(unfolded.itemsize));
    return;
  }
  const Loops loops = fold_short_runs(unfolded);
  const int32_t partner = transposed_partner(loops);
  const int32_t top = loops.count - 1;
  switch (loops.itemsize) {
    case 1:
      return walk<1>(loops.dst, loops.src, loops, top, partner);
    case 2:
      return walk<2>(loops.dst, loops.src, loops, top, partner);
    case 3:
      return walk<3>(loops.dst, loops.src, loops, top, partner);
    case 4:
      return walk<4>(loops.dst, loops.src, loops, top, partner);
    case 6:
      return walk<6>(loops.dst, loops.src, loops, top, partner);
    case 8:
      return walk<8>(loops.dst, loops.src, loops, top, partner);
    case 12:
      return walk<12>(loops.dst, loops.src, loops, top, partner);
    case 16:
      return walk<16>(loops.dst, loops.src, loops, top, partner);
    default:
      return walk<0>(loops.dst, loops.src, loops, top, partner);
  }
}

// Splits the longest outer dimension (or the only one) into slices, one a thread. The calling
// thread takes one too, and takes over the slices for which no thread could be started.
void run_threaded(const Loops& loops, int64_t threads) {
  int32_t split = 0;
  for (int32_t i = loops.count - 1; i >= 0; --i) {
    if (loops.dims[i].extent >= threads) {
      split = i;
      break;
    }
  }
  const int64_t extent = loops.dims[split].extent;
  threads = std::min(threads, extent);
  std::vector<LoopDim> dims(loops.dims, loops.dims + loops.count);
  const auto slice = [&loops, dims, split, extent, threads](int64_t index) mutable noexcept {
    const int64_t begin = extent * index / threads;
    dims[split].extent = extent * (index + 1) / threads - begin;
    run({loops.dst + begin * dims[split].dst_stride_bytes,
         loops.src + begin * dims[split].src_stride_bytes, dims.data(), loops.count,
         loops.itemsize});
  };
  std::vector<std::jthread> workers;
  workers.reserve(static_cast<size_t>(threads));
  int64_t started = 1;
  try {
    for (; started < threads; ++started) workers.emplace_back(slice, started);
  } catch (const std::exception&) {
    // No more threads: the caller copies the rest.
  }
  auto own = slice;
  own(0);
  for (int64_t i = started; i < threads; ++i) own(i);
}

}  // namespace

void copy_host(const TensorView& src, const TensorView& dst) {
  assert(std::ranges::equal(src.extents(), dst.extents()) && src.itemsize() == dst.itemsize());
  assert(Device(src.device).is_host() && Device(dst.device).is_host());
  assert(dst.access == Access::writable);
  const int64_t bytes = dst.nbytes();
  if (bytes == 0) return;
  std::array<LoopDim, 64> inline_dims;
  std::vector<LoopDim> heap_dims;
  LoopDim* dims = inline_dims.data();
  if (dst.ndim > static_cast<int32_t>(inline_dims.size())) {
    heap_dims.resize(static_cast<size_t>(dst.ndim));
    dims = heap_dims.data();
  }
  Loops loops{static_cast<char*>(dst.data), static_cast<const char*>(src.data), dims,
              coalesce(dst, src, dims), dst.itemsize()};
  if (DType(dst.dtype).is_subbyte() && !dst.subbyte_padded) {
    // Packed below a byte: only dense memory has addresses for its elements.
    std::memcpy(dst.data, src.data, static_cast<size_t>(bytes));
    return;
  }
  const int64_t threads = std::min({kMaxThreads, bytes / kBytesPerThread,
                                    static_cast<int64_t>(std::thread::hardware_concurrency())});
  if (threads > 1 && loops.count > 0)
    run_threaded(loops, threads);
  else
    run(loops);
}

void require_copyable(const TensorView& src, const TensorView& dst) {
  for (const TensorView* view : {&src, &dst}) {
    if (Device(view->device).is_host()) continue;
    throw Error(
        ErrorCode::unsupported_device, "device",
        "device is " + Device(view->device).name() + "; expected host memory: stage it first");
  }
  require_same_elements(src, dst);
}

void require_same_elements(const TensorView& src, const TensorView& dst) {
  if (!(DType(src.dtype) == DType(dst.dtype)) || src.subbyte_padded != dst.subbyte_padded) {
    throw Error(ErrorCode::unsupported_dtype, "dtype",
                "the destination's dtype is " + DType(dst.dtype).name() + "; expected " +
                    DType(src.dtype).name() +
                    (src.subbyte_padded != dst.subbyte_padded ? ", padded alike" : "") +
                    ": cast first");
  }
  if (!std::ranges::equal(src.extents(), dst.extents())) {
    throw Error(ErrorCode::shape_mismatch, "shape",
                "the destination has another shape; expected that of the source");
  }
  if (dst.access != Access::writable) {
    throw Error(ErrorCode::read_only, "flags",
                "the destination is not known to be writable; expected writable memory");
  }
  if (const int32_t dim = broadcast_dimension(dst); dim >= 0) {
    throw Error(ErrorCode::overlap, "strides",
                "the destination's stride in dimension " + std::to_string(dim) +
                    " is 0; expected an element of its own for each index");
  }
  if (has_partial_overlap(dst)) {
    throw Error(ErrorCode::overlap, "strides",
                "the destination's elements overlap each other; expected memory without overlap");
  }
  if (elements_intersect(src, dst)) {
    throw Error(ErrorCode::overlap, "data",
                "source and destination have memory in common; expected two separate ones");
  }
}

void repack_float4(const TensorView& src, const TensorView& dst) {
  const bool unpack = DType(src.dtype) == kFloat4Pair;
  const TensorView& pairs = unpack ? src : dst;
  const TensorView& singles = unpack ? dst : src;
  const int32_t last = singles.ndim - 1;
  const int64_t rows = pairs.size();
  assert(singles.ndim == pairs.ndim && singles.size() == 2 * rows);
  assert(Device(src.device).is_host() && Device(dst.device).is_host());
  if (rows == 0) return;
  std::vector<int64_t> index(static_cast<size_t>(std::max(pairs.ndim, 1)), 0);
  for (int64_t row = 0; row < rows; ++row) {
    int64_t pair_offset = 0;
    int64_t single_offset = 0;
    for (int32_t i = 0; i < pairs.ndim; ++i) {
      pair_offset += index[i] * pairs.strides[i];
      single_offset += index[i] * singles.strides[i] * (i == last ? 2 : 1);
    }
    auto* pair = static_cast<uint8_t*>(pairs.data) + pair_offset;
    auto* low = static_cast<uint8_t*>(singles.data) + single_offset;
    auto* high = low + singles.strides[last];
    if (unpack) {
      *low = *pair & 0x0F;
      *high = *pair >> 4;
    } else {
      *pair = static_cast<uint8_t>((*low & 0x0F) | (*high & 0x0F) << 4);
    }
    for (int32_t i = pairs.ndim - 1; i >= 0; --i) {
      if (++index[i] < pairs.shape[i]) break;
      index[i] = 0;
    }
  }
}

Loan allocate_like(const TensorView& like) {
  constexpr size_t kAlignment = 64;
  Loan loan;
  loan.set_rank(like.ndim);
  std::copy_n(like.shape, like.ndim, loan.shape());
  TensorView& view = loan.view();
  view.dtype = like.dtype;
  view.subbyte_padded = like.subbyte_padded;
  view.is_copied = true;
  if (DType(like.dtype).is_subbyte() && !like.subbyte_padded)
    compact_strides(view.extents(), loan.strides());
  else
    dense_strides_like(like, loan.strides());
  const size_t bytes = static_cast<size_t>(std::max<int64_t>(view.nbytes(), 1));
  void* memory = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (memory == nullptr) throw std::bad_alloc();
  view.data = memory;
  loan.attach({memory, [](void* context) noexcept { std::free(context); }});
  return loan;
}

}  // namespace dlbridge
