// SPDX-License-Identifier: Apache-2.0
// NumPy's type numbers <-> DLPack's types.
#pragma once

#include <bit>
#include <optional>

#include "dlbridge/plan.h"
#include "numpy_api.h"

namespace dlbridge {

/// One row of the map from type number to DLPack type.
struct alignas(8) NumpyDType {
  constexpr NumpyDType() noexcept = default;
  constexpr explicit NumpyDType(DType type) noexcept
      : dtype(type),
        held(true),
        padded(type.is_subbyte()),
        shift(static_cast<uint8_t>(std::countr_zero(static_cast<uint64_t>(type.itemsize())))) {}

  DLDataType dtype{};
  bool held = false;    ///< the type can be exchanged
  bool padded = false;  ///< elements are smaller than a byte and fill one
  uint8_t shift = 0;    ///< the size of an element is 1 << shift
};

/// A type that DLPack does not have: what it is, in words, and what an array of it can be passed
/// as.
struct RefusedDType : ReasonDetail {
  bool castable = false;  ///< NumPy casts it to types that DLPack has
};

const RefusedDType& refused_dtype(const PyArray_Descr* descriptor) noexcept;

/// Fills the tables for NumPy's own types. Requires: NumPy's C API is loaded.
void initialize_dtype_map();

/// What an array's type number stands for. ml_dtypes' numbers are found once the package is
/// imported by anyone.
const NumpyDType& entry_for(int type_num) noexcept;

/// Borrowed descriptor for `dtype`, or null. ml_dtypes' types need load_ml_dtypes() first.
PyArray_Descr* descriptor_for(DLDataType dtype) noexcept;

}  // namespace dlbridge
