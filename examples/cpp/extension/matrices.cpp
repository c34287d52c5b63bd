// SPDX-License-Identifier: Apache-2.0
// A Python extension module whose functions take arrays of any framework and return them.
//
//     matrices.scale(x, factor)    multiplies the elements of a vector in place
//     matrices.diagonal(x)         the diagonal of a matrix, over its memory: a dlbridge.Tensor
//     matrices.row_sums(x)         the sums of its rows: an array of the same framework
#include <nanobind/nanobind.h>

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "dlbridge/loan_over.h"
#include "dlbridge/nanobind.h"
#include "dlbridge/require.h"

namespace nb = nanobind;

void scale(const dlbridge::TensorView& x, float factor) {
  dlbridge::require(
      x, {.dtype = dlbridge::dtype_of<float>(), .ndim = 1, .row_major = true, .writable = true});
  for (float& element : std::span(static_cast<float*>(x.data), x.size())) element *= factor;
}

dlbridge::Loan diagonal(dlbridge::Loan x) {
  dlbridge::require(x.view(), {.ndim = 2});
  const int64_t extent = std::min(x.shape()[0], x.shape()[1]);
  const int64_t stride = x.strides()[0] + x.strides()[1];
  x.set_rank(1);
  x.shape()[0] = extent, x.strides()[0] = stride;
  return x;  // keeps the memory of the argument
}

nb::object row_sums(nb::object x) {
  const dlbridge::Loan matrix = dlbridge::share_object(x.ptr());
  const dlbridge::TensorView& view = matrix.view();
  dlbridge::require(view, {.dtype = dlbridge::dtype_of<float>(), .ndim = 2, .row_major = true});
  std::vector<float> sums(static_cast<size_t>(view.shape[0]));
  const auto* row = static_cast<const float*>(view.data);
  for (float& sum : sums) {
    sum = std::accumulate(row, row + view.shape[1], 0.0f);
    row += view.shape[1];
  }
  return dlbridge::like(x, dlbridge::loan_over(std::move(sums)));
}

NB_MODULE(matrices, module) {
  dlbridge::translate_errors(module);  // dlbridge::Error becomes dlbridge.ExchangeError
  module.def("scale", scale, nb::arg("x"), nb::arg("factor"));
  module.def("diagonal", diagonal, nb::arg("x"));
  module.def("row_sums", row_sums, nb::arg("x"));
}
