// SPDX-License-Identifier: Apache-2.0
#include "placement.h"

#include <algorithm>
#include <new>

#include "dlbridge/copy.h"
#include "dlbridge/layout.h"

namespace dlbridge::contract {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kGuard = 64;

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

Placement::Placement(Spec spec) : spec_(std::move(spec)) {
  const ByteRange range =
      byte_range(spec_.shape, spec_.strides, spec_.dtype.itemsize()).value_or(ByteRange{});
  first_ = aligned(kGuard + static_cast<size_t>(range.before)) + spec_.misalignment;
  block_bytes_ = first_ + static_cast<size_t>(range.after) + kGuard;
}

TensorView Placement::view(void* block, Device device) const {
  TensorView view;
  view.data = static_cast<uint8_t*>(block) + first_;
  view.shape = spec_.shape.data();
  view.strides = spec_.strides.data();
  view.ndim = static_cast<int32_t>(spec_.shape.size());
  view.dtype = spec_.dtype;
  view.subbyte_padded = spec_.padded;
  view.device = device;
  return view;
}

Block::Block(size_t bytes)
    : memory_(new (std::align_val_t{kAlignment}) uint8_t[std::max<size_t>(bytes, 1)]),
      size_(bytes) {
  std::fill_n(memory_, size_, kPoison);
}

Block::~Block() { ::operator delete[](memory_, std::align_val_t{kAlignment}); }

Bytes pattern(size_t bytes, uint32_t seed) {
  Bytes content(bytes);
  uint32_t state = seed * 2654435761u + 1;
  for (uint8_t& byte : content) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<uint8_t>(state >> 24);
  }
  return content;
}

Bytes elements_of(const TensorView& view) {
  Bytes elements(static_cast<size_t>(view.nbytes()));
  Dims strides(static_cast<size_t>(view.ndim));
  compact_strides(view.extents(), strides.data());
  TensorView dense = view;
  dense.strides = strides.data();
  dense.data = elements.data();
  if (!view.is_empty()) copy_host(view, dense);
  return elements;
}

}  // namespace dlbridge::contract
