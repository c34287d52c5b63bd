// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/copy.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "dlbridge/layout.h"
#include "kernels/kernels.h"
#include "workers.h"

namespace dlbridge {
namespace {

// Bytes from which threads share a copy, and the bytes of one piece.
constexpr int64_t kParallelBytes = int64_t{512} << 10;
constexpr int64_t kPieceBytes = int64_t{128} << 10;
// From this many bytes on the destination is written past the caches.
constexpr int64_t kStreamBytes = int64_t{24} << 20;
// NumPy asks for huge pages from this size on, too.
constexpr int64_t kHugePageBytes = int64_t{4} << 20;
// The longest contiguous run that is treated as one element.
constexpr int64_t kLongestElement = 64;
// The longest row whose neighbours are taken in the order of the source, in copies larger than the
// caches.
constexpr int64_t kLongestShortRow = 4096;
constexpr int64_t kCachedBytes = int64_t{4} << 20;
// A part of a cast that is brought into the order of the destination first, and how many rows of
// it.
constexpr int64_t kCastBuffer = int64_t{16} << 10;
constexpr int64_t kCastRows = 16;
constexpr LoopDim kOnce{1, 0, 0};

// A copy as nested loops over elements of `itemsize` bytes: dims[0] is innermost in the
// destination, dims[1] the other dimension of the kernel.
struct Loops {
  char* dst;
  const char* src;
  LoopDim* dims;
  int32_t count;
  int64_t itemsize;
  int64_t dst_itemsize;  // another one only for a cast
  CopyKernel kernel = nullptr;
  Converter convert = nullptr;           // null for a copy
  std::atomic<bool>* refused = nullptr;  // set where convert returns false
  bool stream = false;
};

// The loops over two views of one shape, with room for the dimensions in `dims`.
Loops loops_over(const TensorView& src, const TensorView& dst, LoopDim* dims) {
  Loops loops{static_cast<char*>(dst.data),
              static_cast<const char*>(src.data),
              dims,
              coalesce(dst, src, dims),
              src.itemsize(),
              dst.itemsize()};
  if (loops.count == 0) dims[loops.count++] = {1, loops.dst_itemsize, loops.itemsize};
  return loops;
}

bool is_group(int64_t items) noexcept { return items >= 2 && items <= 4; }

// Returns true if each step of `outer` writes the few items after those of the step before.
bool joins(const LoopDim& inner, const LoopDim& outer, int64_t size) noexcept {
  return is_group(inner.extent) && outer.dst_stride_bytes == inner.extent * size;
}

// Casts a block: the kernel brings a part of it into a buffer, in the order of the destination.
void cast_block(const Loops& loops, const CopyBlock& block) noexcept {
  const auto& [extent, dst_stride, src_stride] = block.inner;
  const int64_t size = block.itemsize;
  const auto convert = [&loops](char* dst, const char* src, int64_t count) {
    if (!loops.convert(dst, src, count)) loops.refused->store(true, std::memory_order_relaxed);
  };
  if (loops.refused->load(std::memory_order_relaxed)) return;
  if (src_stride == size) {
    for (int64_t i = 0; i < block.outer.extent; ++i) {
      convert(block.dst + i * block.outer.dst_stride_bytes,
              block.src + i * block.outer.src_stride_bytes, extent);
    }
    return;
  }
  alignas(64) char buffer[kCastBuffer];
  const int64_t room = kCastBuffer / size;
  const bool whole = joins(block.inner, block.outer, loops.dst_itemsize);
  const int64_t height = std::min(block.outer.extent, whole ? room / extent / 64 * 64 : kCastRows);
  const int64_t width = whole ? extent : std::min(extent, room / height / 64 * 64);
  for (int64_t j = 0; j < block.outer.extent; j += height) {
    for (int64_t i = 0; i < extent; i += width) {
      CopyBlock part = block;
      part.inner = {std::min(width, extent - i), size, src_stride};
      part.outer = {std::min(height, block.outer.extent - j), part.inner.extent * size,
                    block.outer.src_stride_bytes};
      part.dst = buffer;
      part.src += i * src_stride + j * block.outer.src_stride_bytes;
      loops.kernel(part);
      char* dst = block.dst + i * dst_stride + j * block.outer.dst_stride_bytes;
      if (whole) {
        convert(dst, buffer, part.inner.extent * part.outer.extent);
        continue;
      }
      for (int64_t row = 0; row < part.outer.extent; ++row) {
        convert(dst + row * block.outer.dst_stride_bytes, buffer + row * part.inner.extent * size,
                part.inner.extent);
      }
    }
  }
}

void run_block(const Loops& loops, const CopyBlock& block) noexcept {
  if (loops.convert != nullptr)
    cast_block(loops, block);
  else
    loops.kernel(block);
}

void run(const Loops& loops) noexcept {
  CopyBlock block{loops.dst,      loops.src,
                  loops.dims[0],  loops.count > 1 ? loops.dims[1] : kOnce,
                  loops.itemsize, loops.stream};
  if (loops.count <= 2) return run_block(loops, block);
  // The outer dimensions as one counter; only as many digits as there are dimensions are used.
  const LoopDim* outer = loops.dims + 2;
  const int32_t digits = loops.count - 2;
  std::array<int64_t, 64> index;
  assert(digits <= static_cast<int32_t>(index.size()));
  std::fill_n(index.begin(), digits, 0);
  while (true) {
    run_block(loops, block);
    int32_t i = 0;
    for (; i < digits; ++i) {
      block.dst += outer[i].dst_stride_bytes;
      block.src += outer[i].src_stride_bytes;
      if (++index[i] < outer[i].extent) break;
      block.dst -= outer[i].extent * outer[i].dst_stride_bytes;
      block.src -= outer[i].extent * outer[i].src_stride_bytes;
      index[i] = 0;
    }
    if (i == digits) return;
  }
}

// Walks a dimension from its other end.
void flip(Loops& loops, LoopDim& dim) noexcept {
  loops.dst += (dim.extent - 1) * dim.dst_stride_bytes;
  loops.src += (dim.extent - 1) * dim.src_stride_bytes;
  dim.dst_stride_bytes = -dim.dst_stride_bytes;
  dim.src_stride_bytes = -dim.src_stride_bytes;
}

// A short run that is contiguous on both sides (the three bytes of a pixel) is copied as if it were
// one element.
void fold_short_runs(Loops& loops) noexcept {
  if (loops.convert != nullptr) return;
  while (loops.count > 1 && loops.dims[0].dst_stride_bytes == loops.itemsize &&
         loops.dims[0].src_stride_bytes == loops.itemsize &&
         loops.dims[0].extent * loops.itemsize <= kLongestElement) {
    loops.itemsize *= loops.dims[0].extent;
    loops.dst_itemsize = loops.itemsize;
    ++loops.dims;
    --loops.count;
  }
}

// Brings the dimension with the shortest step in the source, if that is shorter than `longest`,
// next to the innermost one.
void take_partner(Loops& loops, int64_t longest) noexcept {
  int32_t partner = 1;
  for (int32_t i = 1; i < loops.count; ++i) {
    const int64_t step = std::abs(loops.dims[i].src_stride_bytes);
    if (step >= longest || step == 0) continue;
    longest = step;
    partner = i;
  }
  if (loops.count > 1) std::rotate(loops.dims + 1, loops.dims + partner, loops.dims + partner + 1);
}

// Chooses the kernel and brings the dimensions into its order.
void choose_kernel(Loops& loops, int64_t bytes) noexcept {
  const CopyKernels& kernels = copy_kernels();
  const LoopDim& inner = loops.dims[0];
  const int64_t size = loops.itemsize;
  const bool dense = inner.dst_stride_bytes == loops.dst_itemsize;
  if (dense && inner.src_stride_bytes == size) {
    loops.kernel = kernels.rows;
    // Short rows are read one after the other: several places of main memory are written faster
    // than read.
    if (bytes > kCachedBytes && inner.extent * size <= kLongestShortRow)
      take_partner(loops, INT64_MAX);
    // The source is read upwards, as prefetchers like it.
    for (int32_t i = 1; i < loops.count; ++i) {
      if (loops.dims[i].src_stride_bytes < 0) flip(loops, loops.dims[i]);
    }
    return;
  }
  take_partner(loops, std::abs(inner.src_stride_bytes));
  if (loops.count > 1 && loops.dims[1].src_stride_bytes < 0) flip(loops, loops.dims[1]);
  loops.kernel = kernels.any(size);
  if (size > 8 || !std::has_single_bit(static_cast<uint64_t>(size)) || !dense) return;
  const int log2 = std::countr_zero(static_cast<uint64_t>(size));
  const int64_t step = std::abs(inner.src_stride_bytes) / size;
  const bool whole = inner.src_stride_bytes % size == 0;
  if (inner.src_stride_bytes == 0) {
    loops.kernel = kernels.repeated[log2];
  } else if (loops.count > 1 && loops.dims[1].src_stride_bytes == size) {
    const LoopDim& outer = loops.dims[1];
    if (is_group(outer.extent) && whole && step == outer.extent)
      loops.kernel = kernels.split[log2][step - 2];
    else if (joins(inner, outer, loops.dst_itemsize))
      loops.kernel = kernels.joined[log2][inner.extent - 2];
    else
      loops.kernel = kernels.transposed[log2];
  } else if (inner.src_stride_bytes == -size) {
    loops.kernel = kernels.reversed[log2];
  } else if (whole && is_group(step)) {
    loops.kernel = kernels.stepped[log2][step - 2];
  }
}

// A dimension cut into pieces that threads take.
struct Pieces {
  const Loops* loops;
  int32_t dim;
  int64_t grain;
};

void run_piece(const void* context, int64_t index) noexcept {
  const auto& pieces = *static_cast<const Pieces*>(context);
  Loops loops = *pieces.loops;
  std::array<LoopDim, 64> dims;
  std::copy_n(loops.dims, loops.count, dims.begin());
  loops.dims = dims.data();
  LoopDim& cut = dims[pieces.dim];
  const int64_t begin = index * pieces.grain;
  cut.extent = std::min(pieces.grain, cut.extent - begin);
  loops.dst += begin * cut.dst_stride_bytes;
  loops.src += begin * cut.src_stride_bytes;
  run(loops);
}

// Cuts the outermost dimension that is long enough, else the longest, into pieces of about
// kPieceBytes. The dimensions that a kernel walks in vectors and tiles are cut into whole ones.
void run_parallel_pieces(const Loops& loops, int64_t bytes, int threads) noexcept {
  const bool rows = loops.kernel == copy_kernels().rows;
  const auto unit_of = [&](int32_t dim) { return dim == 0 || (dim == 1 && !rows) ? 64 : 1; };
  const auto units = [&](int32_t dim) { return loops.dims[dim].extent / unit_of(dim); };
  Pieces pieces{&loops, 0, 0};
  for (int32_t i = loops.count - 1; i >= 0; --i) {
    if (units(i) >= 4 * threads) {
      pieces.dim = i;
      break;
    }
    if (units(i) > units(pieces.dim)) pieces.dim = i;
  }
  const int64_t extent = loops.dims[pieces.dim].extent;
  const int64_t unit = unit_of(pieces.dim);
  const int64_t wanted = bytes / kPieceBytes * unit;
  pieces.grain = (extent + wanted - 1) / wanted * unit;
  run_parallel({run_piece, &pieces, (extent + pieces.grain - 1) / pieces.grain}, threads);
}

// Brings the loops into the order of a kernel and runs them, on several threads where that pays.
void plan_and_run(Loops& loops, int64_t bytes) noexcept {
  for (int32_t i = 0; i < loops.count; ++i) {
    if (loops.dims[i].dst_stride_bytes < 0) flip(loops, loops.dims[i]);
  }
  fold_short_runs(loops);
  choose_kernel(loops, bytes);
  if (bytes < kParallelBytes) return run(loops);
  const int threads = recent_num_threads();
  if (threads > 1)
    run_parallel_pieces(loops, bytes, threads);
  else
    run(loops);
}

// Room for the dimensions of a view, on the stack up to rank 64.
class Dims {
 public:
  explicit Dims(int32_t rank) {
    if (rank > kInline) heap_.resize(static_cast<size_t>(rank));
  }
  LoopDim* get() noexcept { return heap_.empty() ? inline_.data() : heap_.data(); }

 private:
  static constexpr int32_t kInline = 64;
  std::array<LoopDim, kInline> inline_;
  std::vector<LoopDim> heap_;
};

}  // namespace

void copy_host(const TensorView& src, const TensorView& dst, bool fresh) {
  assert(std::ranges::equal(src.extents(), dst.extents()) && src.itemsize() == dst.itemsize());
  assert(Device(src.device).is_host() && Device(dst.device).is_host());
  assert(dst.access == Access::writable);
  const int64_t bytes = dst.nbytes();
  if (bytes == 0) return;
  if (DType(dst.dtype).is_subbyte() && !dst.subbyte_padded) {
    // Packed below a byte: only dense memory has addresses for its elements.
    std::memcpy(dst.data, src.data, static_cast<size_t>(bytes));
    return;
  }
  if (bytes < kParallelBytes && is_contiguous(src) && is_contiguous(dst)) {
    std::memcpy(dst.data, src.data, static_cast<size_t>(bytes));
    return;
  }
  Dims dims(dst.ndim);
  Loops loops = loops_over(src, dst, dims.get());
  loops.stream = !fresh && bytes >= kStreamBytes;
  plan_and_run(loops, bytes);
}

bool cast_host(const TensorView& src, const TensorView& dst) {
  assert(std::ranges::equal(src.extents(), dst.extents()));
  assert(Device(src.device).is_host() && Device(dst.device).is_host());
  assert(dst.access == Access::writable);
  const Converter convert = copy_kernels().converter(src.dtype, dst.dtype);
  if (convert == nullptr) return false;
  const int64_t bytes = std::max(src.nbytes(), dst.nbytes());
  if (bytes == 0) return true;
  Dims dims(dst.ndim);
  Loops loops = loops_over(src, dst, dims.get());
  if (std::abs(dims.get()[0].dst_stride_bytes) != loops.dst_itemsize) return false;
  std::atomic<bool> refused = false;
  loops.convert = convert;
  loops.refused = &refused;
  plan_and_run(loops, bytes);
  return !refused.load(std::memory_order_relaxed);
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

Loan dense_like(const TensorView& like, bool row_major) {
  Loan loan;
  loan.describe(like);
  if (row_major || (DType(like.dtype).is_subbyte() && !like.subbyte_padded))
    compact_strides(like.extents(), loan.strides());
  else
    dense_strides_like(like, loan.strides());
  TensorView& view = loan.view();
  view.data = nullptr;
  view.byte_offset = 0;
  view.device = Device(DeviceType::cpu);
  view.access = Access::writable;
  view.is_copied = true;
  return loan;
}

Loan allocate_like(const TensorView& like) {
  constexpr size_t kAlignment = 64;
  Loan loan = dense_like(like);
  TensorView& view = loan.view();
  // malloc and an aligned address in it: aligned_alloc has no fast path for small sizes.
  const auto bytes = static_cast<size_t>(view.nbytes());
  if (bytes > SIZE_MAX - kAlignment) throw std::bad_alloc();
  void* memory = std::malloc(bytes + kAlignment);
  if (memory == nullptr) throw std::bad_alloc();
  const uintptr_t past = reinterpret_cast<uintptr_t>(memory) & (kAlignment - 1);
  view.data = static_cast<char*>(memory) + (kAlignment - past);
  advise_huge_pages(view.data, view.nbytes());
  loan.attach({memory, [](void* context) noexcept { std::free(context); }});
  return loan;
}

void advise_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) noexcept {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < kHugePageBytes) return;
  constexpr uintptr_t kPage = 4096;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) & ~(kPage - 1);
  const uintptr_t end =
      (reinterpret_cast<uintptr_t>(memory) + static_cast<size_t>(bytes)) & ~(kPage - 1);
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace dlbridge
