#include "dlbridge/layout.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <numeric>
#include <vector>

namespace dlbridge {
namespace {

bool multiply(int64_t a, int64_t b, int64_t* out) noexcept {
  return !__builtin_mul_overflow(a, b, out);
}
bool add(int64_t a, int64_t b, int64_t* out) noexcept { return !__builtin_add_overflow(a, b, out); }

// One term of a bounded sum: a positive stride times a digit in [low, high].
struct Term {
  int64_t stride;
  int64_t low;
  int64_t high;
};

constexpr int32_t kMaxTerms = 130;

// Searches for digits with start + sum(digit_i * stride_i) == 0: two element addresses that meet.
// Depth first; a branch dies when what is left cannot bring the sum back to zero. Terms come sorted
// by stride, downwards.
class BoundedSum {
 public:
  explicit BoundedSum(std::span<const Term> terms) noexcept : terms_(terms) {
    for (size_t i = terms_.size(); i-- > 0;) {
      tail_low_[i] = tail_low_[i + 1] + terms_[i].stride * terms_[i].low;
      tail_high_[i] = tail_high_[i + 1] + terms_[i].stride * terms_[i].high;
      gcd_[i] = std::gcd(gcd_[i + 1], terms_[i].stride);
    }
  }

  // True when there is a solution, or none was excluded within the bound.
  bool reaches_zero(int64_t start) noexcept { return visit(0, start, true); }
  // The same from 0, digits not all zero. Requires: symmetric ranges.
  bool reaches_zero_again() noexcept { return visit(0, 0, false); }

 private:
  static constexpr int kMaxVisits = 20000;

  bool visit(size_t depth, int64_t sum, bool moved) noexcept {
    if (++visits_ > kMaxVisits) return true;
    if (depth == terms_.size()) return moved && sum == 0;
    if (sum % gcd_[depth] != 0) return false;
    const auto [stride, lowest, highest] = terms_[depth];
    int64_t low = std::max(lowest, ceil_div(-sum - tail_high_[depth + 1], stride));
    const int64_t high = std::min(highest, floor_div(-sum - tail_low_[depth + 1], stride));
    if (!moved) low = std::max<int64_t>(low, 0);  // a solution's mirror image is one too
    for (int64_t digit = low; digit <= high; ++digit) {
      if (visit(depth + 1, sum + digit * stride, moved || digit != 0)) return true;
    }
    return false;
  }

  static int64_t floor_div(int64_t a, int64_t b) noexcept { return a / b - (a % b != 0 && a < 0); }
  static int64_t ceil_div(int64_t a, int64_t b) noexcept { return a / b + (a % b != 0 && a > 0); }

  std::span<const Term> terms_;
  std::array<int64_t, kMaxTerms + 1> tail_low_{};   // what terms i.. reach at least, together
  std::array<int64_t, kMaxTerms + 1> tail_high_{};  // and at most
  std::array<int64_t, kMaxTerms + 1> gcd_{};        // of the strides of terms i..
  int visits_ = 0;
};

class Terms {
 public:
  // False when there is no room: the question stays undecided.
  bool add(Term term) noexcept {
    if (count_ == kMaxTerms) return false;
    terms_[static_cast<size_t>(count_++)] = term;
    return true;
  }
  std::span<const Term> sorted() noexcept {
    std::sort(terms_.begin(), terms_.begin() + count_,
              [](const Term& a, const Term& b) { return a.stride > b.stride; });
    return {terms_.data(), static_cast<size_t>(count_)};
  }

 private:
  std::array<Term, kMaxTerms> terms_;
  int32_t count_ = 0;
};

uint64_t address_of(const TensorView& view) noexcept {
  return reinterpret_cast<uint64_t>(view.data) + view.byte_offset;
}

// The terms of a view's element bytes, counted from its lowest address; `sign` -1 for the side that
// is subtracted.
bool add_bytes(const TensorView& view, int sign, Terms& terms) noexcept {
  const auto range = [sign](int64_t stride, int64_t reach) {
    return sign > 0 ? Term{stride, 0, reach} : Term{stride, -reach, 0};
  };
  if (!terms.add(range(1, view.itemsize() - 1))) return false;
  for (int32_t i = 0; i < view.ndim; ++i) {
    if (view.shape[i] == 1 || view.strides[i] == 0) continue;
    if (!terms.add(range(std::abs(view.strides[i]) * view.itemsize(), view.shape[i] - 1)))
      return false;
  }
  return true;
}

}  // namespace

std::optional<int64_t> element_count(std::span<const int64_t> shape) noexcept {
  if (std::ranges::any_of(shape, [](int64_t extent) { return extent < 0; })) return std::nullopt;
  if (std::ranges::find(shape, 0) != shape.end()) return 0;
  int64_t count = 1;
  for (int64_t extent : shape) {
    if (!multiply(count, extent, &count)) return std::nullopt;
  }
  return count;
}

std::optional<ByteRange> byte_range(std::span<const int64_t> shape,
                                    std::span<const int64_t> strides, int64_t itemsize) noexcept {
  if (std::ranges::find(shape, 0) != shape.end()) return ByteRange{};
  int64_t before = 0;
  int64_t after = itemsize;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] == 1) continue;
    int64_t reach = 0;
    if (!multiply(strides[i], itemsize, &reach) || !multiply(reach, shape[i] - 1, &reach)) {
      return std::nullopt;
    }
    if (reach == INT64_MIN) return std::nullopt;
    if (!(reach < 0 ? add(before, -reach, &before) : add(after, reach, &after)))
      return std::nullopt;
  }
  return ByteRange{before, after};
}

void compact_strides(std::span<const int64_t> shape, int64_t* out) noexcept {
  uint64_t stride = 1;  // unsigned: an empty shape may hold extents whose product wraps
  for (size_t i = shape.size(); i-- > 0;) {
    out[i] = static_cast<int64_t>(stride);
    stride *= static_cast<uint64_t>(std::max<int64_t>(shape[i], 1));
  }
}

void dense_strides_like(const TensorView& view, int64_t* out) {
  if (view.is_empty()) return compact_strides(view.extents(), out);
  std::array<int32_t, 64> inline_order;
  std::vector<int32_t> heap_order;
  int32_t* order = inline_order.data();
  if (view.ndim > static_cast<int32_t>(inline_order.size())) {
    heap_order.resize(static_cast<size_t>(view.ndim));
    order = heap_order.data();
  }
  std::iota(order, order + view.ndim, 0);
  // Insertion sort, outermost first by stride. A dimension without a stride of its own (extent 1,
  // broadcast) decides nothing: it keeps its place, and the comparison goes on beyond it.
  const auto magnitude = [&](int32_t dim) {
    return view.shape[dim] == 1 ? 0 : std::abs(view.strides[dim]);
  };
  for (int32_t i = 1; i < view.ndim; ++i) {
    int32_t moving = i;
    for (int32_t j = i - 1; j >= 0; --j) {
      const int64_t outer = magnitude(order[j]);
      const int64_t inner = magnitude(order[moving]);
      if (outer == 0 || inner == 0) continue;
      if (outer >= inner) break;
      std::swap(order[j], order[moving]);
      moving = j;
    }
  }
  int64_t stride = 1;
  for (int32_t i = view.ndim - 1; i >= 0; --i) {
    out[order[i]] = stride;
    stride *= view.shape[order[i]];
  }
}

int32_t negative_stride_dimension(const TensorView& view) noexcept {
  if (view.is_empty()) return -1;
  for (int32_t i = 0; i < view.ndim; ++i) {
    if (view.strides[i] < 0 && view.shape[i] > 1) return i;
  }
  return -1;
}

namespace {

// Whether each stride goes beyond all that the inner dimensions reach together, taken in the order
// they stand: then no two index tuples meet. Most layouts answer here.
bool is_nested_in_order(const TensorView& view) noexcept {
  int64_t inner_reach = 0;
  for (int32_t i = view.ndim - 1; i >= 0; --i) {
    if (view.shape[i] <= 1 || view.strides[i] == 0) continue;
    const int64_t stride = std::abs(view.strides[i]);
    if (stride <= inner_reach) return false;
    inner_reach += stride * (view.shape[i] - 1);
  }
  return true;
}

}  // namespace

bool has_partial_overlap(const TensorView& view) noexcept {
  if (view.is_empty() || is_nested_in_order(view)) return false;
  Terms collected;
  for (int32_t i = 0; i < view.ndim; ++i) {
    if (view.shape[i] == 1 || view.strides[i] == 0) continue;
    const int64_t reach = view.shape[i] - 1;
    if (!collected.add({std::abs(view.strides[i]), -reach, reach})) return true;  // undecided
  }
  const std::span<const Term> terms = collected.sorted();
  // Each stride beyond all that the smaller ones reach together: no two index tuples can meet.
  int64_t inner_reach = 0;
  bool nested = true;
  for (size_t i = terms.size(); i-- > 0;) {
    nested &= terms[i].stride > inner_reach;
    inner_reach += terms[i].stride * terms[i].high;
  }
  return !nested && BoundedSum(terms).reaches_zero_again();
}

bool ranges_intersect(const TensorView& a, const TensorView& b) noexcept {
  if (!Device::same_place(a.device, b.device) || a.size() == 0 || b.size() == 0) return false;
  const auto range_a = byte_range(a.extents(), a.stride_elements(), a.itemsize());
  const auto range_b = byte_range(b.extents(), b.stride_elements(), b.itemsize());
  if (!range_a || !range_b) return true;
  const uint64_t begin_a = address_of(a) - static_cast<uint64_t>(range_a->before);
  const uint64_t begin_b = address_of(b) - static_cast<uint64_t>(range_b->before);
  return begin_a < address_of(b) + static_cast<uint64_t>(range_b->after) &&
         begin_b < address_of(a) + static_cast<uint64_t>(range_a->after);
}

bool elements_intersect(const TensorView& a, const TensorView& b) noexcept {
  if (!ranges_intersect(a, b)) return false;
  if (is_contiguous(a) && is_contiguous(b)) return true;
  Terms terms;
  if (!add_bytes(a, 1, terms) || !add_bytes(b, -1, terms)) return true;  // undecided
  const auto lowest = [](const TensorView& view) {
    const auto range = byte_range(view.extents(), view.stride_elements(), view.itemsize());
    return static_cast<int64_t>(address_of(view)) - range->before;
  };
  return BoundedSum(terms.sorted()).reaches_zero(lowest(a) - lowest(b));
}

int32_t coalesce(const TensorView& dst, const TensorView& src, LoopDim* out) noexcept {
  const int64_t itemsize = dst.itemsize();
  int32_t count = 0;
  for (int32_t i = dst.ndim - 1; i >= 0; --i) {
    if (dst.shape[i] == 1) continue;
    out[count++] = {dst.shape[i], dst.strides[i] * itemsize, src.strides[i] * itemsize};
  }
  // Insertion sort, stable: row-major order is kept between equal strides.
  for (int32_t i = 1; i < count; ++i) {
    for (int32_t j = i; j > 0; --j) {
      if (std::abs(out[j - 1].dst_stride_bytes) <= std::abs(out[j].dst_stride_bytes)) break;
      std::swap(out[j - 1], out[j]);
    }
  }
  int32_t last = 0;
  for (int32_t i = 1; i < count; ++i) {
    LoopDim& inner = out[last];
    const LoopDim& outer = out[i];
    if (outer.dst_stride_bytes == inner.extent * inner.dst_stride_bytes &&
        outer.src_stride_bytes == inner.extent * inner.src_stride_bytes) {
      inner.extent *= outer.extent;
    } else {
      out[++last] = outer;
    }
  }
  return count == 0 ? 0 : last + 1;
}

}  // namespace dlbridge
