// SPDX-License-Identifier: Apache-2.0
// The layouts and data types that every way of copying is tried with.
#pragma once

#include <string>
#include <vector>

#include "placement.h"

namespace dlbridge::contract {

/// A source and a target of one shape. A source may have any strides; a target does not overlap
/// itself.
struct LayoutPair {
  std::string name;
  Dims shape;
  Dims source;
  Dims target;
};

/// Dense strides with the dimensions in this order, outermost first; `gap` elements follow each run
/// of the innermost one, and every stride is multiplied by `step`.
Dims dense(const Dims& shape, const Dims& order, int64_t gap = 0, int64_t step = 1);
Dims row_major(const Dims& shape, int64_t gap = 0, int64_t step = 1);
Dims reversed(const Dims& shape, int64_t gap = 0, int64_t step = 1);
/// Bit i of `mask` changes dimension i.
Dims flipped(Dims strides, unsigned mask);
Dims broadcast(Dims strides, unsigned mask);

/// Every source layout into a few targets, and a few sources into every target layout.
const std::vector<LayoutPair>& layout_pairs();

struct NamedDType {
  DType dtype;
  bool padded = false;
};
/// Every element size, odd ones among them, and elements below a byte padded to one.
const std::vector<NamedDType>& dtypes();
/// Packed below a byte: dense layouts only.
const std::vector<DType>& packed_dtypes();

}  // namespace dlbridge::contract
