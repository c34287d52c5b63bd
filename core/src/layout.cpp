// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/layout.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

namespace dlbridge {
namespace {

bool multiply(int64_t a, int64_t b, int64_t* out) noexcept {
  return !__builtin_mul_overflow(a, b, out);
}
bool add(int64_t a, int64_t b, int64_t* out) noexcept { return !__builtin_add_overflow(a, b, out); }

// |stride|, also of INT64_MIN.
uint64_t magnitude(int64_t stride) noexcept {
  return stride < 0 ? -static_cast<uint64_t>(stride) : static_cast<uint64_t>(stride);
}

// One term of a bounded sum: a positive stride times a digit in [low, high].
struct Term {
  int64_t stride;
  int64_t low;
  int64_t high;
};

constexpr int32_t kMaxTerms = 130;
// Sums of terms that reach further together are not searched: every sum below then fits 64 bits.
constexpr int64_t kLongestReach = INT64_MAX / 8;

class Terms {
 public:
  void add(uint64_t stride, int64_t low, int64_t high) noexcept {
    int64_t reach = 0;
    decidable_ = decidable_ && count_ < kMaxTerms && stride <= kLongestReach &&
                 multiply(static_cast<int64_t>(stride), high - low, &reach) &&
                 dlbridge::add(reach_, reach, &reach_) && reach_ <= kLongestReach;
    if (decidable_ && low < high) terms_[count_++] = {static_cast<int64_t>(stride), low, high};
  }
  // False: too many terms or too long ones; they are incomplete.
  bool decidable() const noexcept { return decidable_; }

  // The terms, longest stride first.
  std::span<const Term> sorted() noexcept {
    std::sort(terms_.begin(), terms_.begin() + count_,
              [](const Term& a, const Term& b) { return a.stride > b.stride; });
    return {terms_.data(), count_};
  }

  // The same sums by fewer terms: a stride that is a multiple of a shorter one, and no longer than
  // that one's digits reach, only adds digits to it.
  std::span<const Term> merged() noexcept {
    sorted();
    const std::span<Term> all(terms_.data(), count_);
    std::ranges::reverse(all);
    size_t kept = 0;
    for (const Term term : all) {
      const auto shorter = std::find_if(all.begin(), all.begin() + kept, [&](const Term& other) {
        return term.stride % other.stride == 0 &&
               term.stride / other.stride <= other.high - other.low + 1;
      });
      if (shorter == all.begin() + kept) {
        all[kept++] = term;
      } else {
        shorter->low += term.stride / shorter->stride * term.low;
        shorter->high += term.stride / shorter->stride * term.high;
      }
    }
    count_ = kept;
    return sorted();
  }

 private:
  std::array<Term, kMaxTerms> terms_;
  size_t count_ = 0;
  int64_t reach_ = 0;
  bool decidable_ = true;
};

// Searches for digits with start + sum(digit_i * stride_i) == 0: two element addresses that meet.
// Depth first; a branch dies when what is left cannot bring the sum back to zero, and only digits
// are tried that leave a multiple of what the shorter strides have in common. Terms come sorted by
// stride, longest first.
class BoundedSum {
 public:
  explicit BoundedSum(std::span<const Term> terms) noexcept : terms_(terms) {
    for (size_t i = terms_.size(); i-- > 0;) {
      tail_low_[i] = tail_low_[i + 1] + terms_[i].stride * terms_[i].low;
      tail_high_[i] = tail_high_[i + 1] + terms_[i].stride * terms_[i].high;
      gcd_[i] = std::gcd(gcd_[i + 1], terms_[i].stride);
      const int64_t step = std::max<int64_t>(gcd_[i + 1] / gcd_[i], 1);
      step_[i] = step;
      inverse_[i] = inverse(terms_[i].stride / gcd_[i] % step, step);
    }
  }

  // True when there is a solution, or none was excluded within the bound.
  bool reaches_zero(int64_t start) noexcept { return visit(0, start, true); }
  // The same from 0, digits not all zero. The ranges are symmetric.
  bool reaches_zero_again() noexcept { return visit(0, 0, false); }

 private:
  __extension__ using Wide = __int128;
  static constexpr int kMaxVisits = 20000;

  bool visit(size_t depth, int64_t sum, bool moved) noexcept {
    if (++visits_ > kMaxVisits) return true;
    if (depth == terms_.size()) return moved && sum == 0;
    if (sum % gcd_[depth] != 0) return false;
    const auto [stride, lowest, highest] = terms_[depth];
    int64_t low = std::max(lowest, ceil_div(-sum - tail_high_[depth + 1], stride));
    const int64_t high = std::min(highest, floor_div(-sum - tail_low_[depth + 1], stride));
    if (!moved) low = std::max<int64_t>(low, 0);  // a solution's mirror image is one too
    const int64_t step = step_[depth];
    const int64_t residue = modulo(-sum / gcd_[depth], step);
    const auto fitting = static_cast<int64_t>(Wide{residue} * inverse_[depth] % step);
    for (int64_t digit = low + modulo(fitting - low, step); digit <= high; digit += step) {
      if (visit(depth + 1, sum + digit * stride, moved || digit != 0)) return true;
    }
    return false;
  }

  static int64_t floor_div(int64_t a, int64_t b) noexcept { return a / b - (a % b != 0 && a < 0); }
  static int64_t ceil_div(int64_t a, int64_t b) noexcept { return a / b + (a % b != 0 && a > 0); }
  static int64_t modulo(int64_t a, int64_t b) noexcept { return a % b + (a % b < 0 ? b : 0); }

  // The x in [0, modulus) with value * x % modulus == 1; the two have no common factor.
  static int64_t inverse(int64_t value, int64_t modulus) noexcept {
    int64_t x = 0;
    int64_t next = 1;
    for (int64_t rest = modulus; value != 0;) {
      x -= rest / value * next;
      std::swap(x, next);
      rest %= value;
      std::swap(rest, value);
    }
    return modulo(x, modulus);
  }

  std::span<const Term> terms_;
  std::array<int64_t, kMaxTerms + 1> tail_low_{};   // what terms i.. reach at least, together
  std::array<int64_t, kMaxTerms + 1> tail_high_{};  // and at most
  std::array<int64_t, kMaxTerms + 1> gcd_{};        // of the strides of terms i..
  std::array<int64_t, kMaxTerms> step_{};           // between the digits of term i that fit
  std::array<int64_t, kMaxTerms> inverse_{};        // of its stride, modulo that step
  int visits_ = 0;
};

bool is_packed(const TensorView& view) noexcept {
  return DType(view.dtype).is_subbyte() && !view.subbyte_padded;
}

// The bytes around the first element that elements lie in; nothing where 64 bits cannot count them.
std::optional<ByteRange> bytes_of(const TensorView& view) noexcept {
  if (is_packed(view)) return ByteRange{0, view.nbytes()};  // contiguous: see read_descriptor
  return byte_range(view.extents(), view.stride_elements(), view.itemsize());
}

uint64_t address_of(const TensorView& view) noexcept {
  return reinterpret_cast<uint64_t>(view.data) + view.byte_offset;
}

// The terms of a view's element bytes, counted from its lowest address; `sign` -1 for the side that
// is subtracted.
void add_bytes(const TensorView& view, int sign, Terms& terms) noexcept {
  const auto add = [&](uint64_t stride, int64_t reach) {
    if (sign > 0)
      terms.add(stride, 0, reach);
    else
      terms.add(stride, -reach, 0);
  };
  if (is_packed(view)) return add(1, view.nbytes() - 1);
  add(1, view.itemsize() - 1);
  for (int32_t i = 0; i < view.ndim; ++i) {
    if (view.shape[i] == 1 || view.strides[i] == 0) continue;
    add(magnitude(view.strides[i]) * static_cast<uint64_t>(view.itemsize()), view.shape[i] - 1);
  }
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
  const auto step = [&](int32_t dim) {
    return view.shape[dim] == 1 ? 0 : magnitude(view.strides[dim]);
  };
  for (int32_t i = 1; i < view.ndim; ++i) {
    int32_t moving = i;
    for (int32_t j = i - 1; j >= 0; --j) {
      const uint64_t outer = step(order[j]);
      const uint64_t inner = step(order[moving]);
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
  uint64_t inner_reach = 0;
  for (int32_t i = view.ndim - 1; i >= 0; --i) {
    if (view.shape[i] <= 1 || view.strides[i] == 0) continue;
    const uint64_t stride = magnitude(view.strides[i]);
    uint64_t reach = 0;
    if (stride <= inner_reach ||
        __builtin_mul_overflow(stride, static_cast<uint64_t>(view.shape[i] - 1), &reach) ||
        __builtin_add_overflow(inner_reach, reach, &inner_reach))
      return false;
  }
  return true;
}

}  // namespace

bool has_partial_overlap(const TensorView& view) noexcept {
  if (view.is_empty() || is_nested_in_order(view)) return false;
  Terms collected;
  for (int32_t i = 0; i < view.ndim; ++i) {
    if (view.strides[i] == 0) continue;
    collected.add(magnitude(view.strides[i]), 1 - view.shape[i], view.shape[i] - 1);
  }
  if (!collected.decidable()) return true;
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
  if (!Device::same_place(a.device, b.device) || a.is_empty() || b.is_empty()) return false;
  const auto range_a = bytes_of(a);
  const auto range_b = bytes_of(b);
  if (!range_a || !range_b) return true;
  const uint64_t begin_a = address_of(a) - static_cast<uint64_t>(range_a->before);
  const uint64_t begin_b = address_of(b) - static_cast<uint64_t>(range_b->before);
  return begin_a < address_of(b) + static_cast<uint64_t>(range_b->after) &&
         begin_b < address_of(a) + static_cast<uint64_t>(range_a->after);
}

bool elements_intersect(const TensorView& a, const TensorView& b) noexcept {
  if (!ranges_intersect(a, b)) return false;
  if (is_contiguous(a) && is_contiguous(b)) return true;
  const auto range_a = bytes_of(a);
  const auto range_b = bytes_of(b);
  if (!range_a || !range_b) return true;  // undecided
  const uint64_t lowest_a = address_of(a) - static_cast<uint64_t>(range_a->before);
  const uint64_t lowest_b = address_of(b) - static_cast<uint64_t>(range_b->before);
  if (lowest_a == lowest_b) return true;
  // The higher one first: one search for both orders of the arguments.
  const bool swap = lowest_a < lowest_b;
  const uint64_t distance = swap ? lowest_b - lowest_a : lowest_a - lowest_b;
  Terms terms;
  add_bytes(swap ? b : a, 1, terms);
  add_bytes(swap ? a : b, -1, terms);
  if (!terms.decidable() || distance > kLongestReach) return true;
  return BoundedSum(terms.merged()).reaches_zero(static_cast<int64_t>(distance));
}

int32_t coalesce(const TensorView& dst, const TensorView& src, LoopDim* out) noexcept {
  // Unsigned: the views may be empty, and their strides of any size.
  const auto bytes = [](int64_t stride, int64_t itemsize) {
    return static_cast<int64_t>(static_cast<uint64_t>(stride) * static_cast<uint64_t>(itemsize));
  };
  const int64_t dst_itemsize = dst.itemsize();
  const int64_t src_itemsize = src.itemsize();
  int32_t count = 0;
  for (int32_t i = dst.ndim - 1; i >= 0; --i) {
    if (dst.shape[i] == 1) continue;
    out[count++] = {dst.shape[i], bytes(dst.strides[i], dst_itemsize),
                    bytes(src.strides[i], src_itemsize)};
  }
  // Whether `outer` goes on where `inner` ends.
  const auto continues = [](int64_t outer, int64_t extent, int64_t inner) {
    return static_cast<uint64_t>(outer) ==
           static_cast<uint64_t>(extent) * static_cast<uint64_t>(inner);
  };
  // Insertion sort, stable: row-major order is kept between equal strides.
  for (int32_t i = 1; i < count; ++i) {
    for (int32_t j = i; j > 0; --j) {
      if (magnitude(out[j - 1].dst_stride_bytes) <= magnitude(out[j].dst_stride_bytes)) break;
      std::swap(out[j - 1], out[j]);
    }
  }
  int32_t last = 0;
  for (int32_t i = 1; i < count; ++i) {
    LoopDim& inner = out[last];
    const LoopDim& outer = out[i];
    if (continues(outer.dst_stride_bytes, inner.extent, inner.dst_stride_bytes) &&
        continues(outer.src_stride_bytes, inner.extent, inner.src_stride_bytes)) {
      inner.extent *= outer.extent;
    } else {
      out[++last] = outer;
    }
  }
  return count == 0 ? 0 : last + 1;
}

}  // namespace dlbridge
