// SPDX-License-Identifier: Apache-2.0
// Shaped: a TensorView for a test, with storage for its shape and strides. Borrows the data.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "dlbridge/tensor_view.h"

namespace dlbridge::test {

inline constexpr DType kInt8{TypeCode::int_, 8};
inline constexpr DType kUint8{TypeCode::uint, 8};
inline constexpr DType kInt32{TypeCode::int_, 32};
inline constexpr DType kInt64{TypeCode::int_, 64};
inline constexpr DType kFloat32{TypeCode::float_, 32};
inline constexpr DType kFloat64{TypeCode::float_, 64};

/// Row-major strides. A second, simpler implementation than the library's.
inline std::vector<int64_t> row_major(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  return strides;
}

class Shaped {
 public:
  Shaped(std::vector<int64_t> shape, std::vector<int64_t> strides, DType dtype = kFloat32,
         void* data = nullptr)
      : shape_(std::move(shape)), strides_(std::move(strides)) {
    fields_.dtype = dtype;
    fields_.data = data;
  }

  /// Compact, over an aligned address that is not dereferenced.
  explicit Shaped(const std::vector<int64_t>& shape, DType dtype = kFloat32)
      : Shaped(shape, row_major(shape), dtype, aligned_address()) {}

  /// For setting device, access, reasons and the like; shape and strides are set by the
  /// constructor.
  TensorView& fields() { return fields_; }

  TensorView view() const {
    TensorView view = fields_;
    view.shape = shape_.data();
    view.strides = strides_.data();
    view.ndim = static_cast<int32_t>(shape_.size());
    return view;
  }

  static void* aligned_address() { return reinterpret_cast<void*>(uintptr_t{0x10000}); }

 private:
  std::vector<int64_t> shape_;
  std::vector<int64_t> strides_;
  TensorView fields_;
};

/// Calls `visit` with every index tuple of `shape`, row-major; once with an empty tuple at rank 0.
inline void for_each_index(std::span<const int64_t> shape,
                           const std::function<void(const std::vector<int64_t>&)>& visit) {
  for (int64_t extent : shape) {
    if (extent == 0) return;
  }
  std::vector<int64_t> index(shape.size(), 0);
  while (true) {
    visit(index);
    size_t i = shape.size();
    while (i > 0 && ++index[i - 1] == shape[i - 1]) index[--i] = 0;
    if (i == 0) return;
  }
}

/// The distance of the element at `index` from the first one, in bytes.
inline int64_t offset_bytes(const TensorView& view, const std::vector<int64_t>& index) {
  int64_t elements = 0;
  for (size_t i = 0; i < index.size(); ++i) elements += index[i] * view.strides[i];
  return elements * view.itemsize();
}

}  // namespace dlbridge::test
