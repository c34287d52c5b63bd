// SPDX-License-Identifier: Apache-2.0
// loan_over: loans over host memory of a program's own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "dlbridge/dtype.h"
#include "dlbridge/layout.h"
#include "dlbridge/loan.h"

namespace dlbridge {

/// A loan over writable, row-major host memory at `data`, which `owner` keeps: a std::shared_ptr, a
/// container that was moved in. The deleter destroys `owner`, on any thread. Throws std::bad_alloc.
template <typename Owner>
Loan loan_over(Owner owner, void* data, DType dtype, const std::vector<int64_t>& shape) {
  Loan loan;
  loan.set_rank(static_cast<int32_t>(shape.size()));
  std::copy(shape.begin(), shape.end(), loan.shape());
  compact_strides(shape, loan.strides());
  loan.view().data = data;
  loan.view().dtype = dtype;
  loan.attach({std::make_unique<Owner>(std::move(owner)).release(),
               [](void* context) noexcept { delete static_cast<Owner*>(context); }});
  return loan;
}

/// The same over the elements of a vector, in one dimension.
template <typename T>
Loan loan_over(std::vector<T> values) {
  void* data = values.data();
  const auto size = static_cast<int64_t>(values.size());
  return loan_over(std::move(values), data, dtype_of<T>(), {size});
}

}  // namespace dlbridge
