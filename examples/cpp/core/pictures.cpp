// SPDX-License-Identifier: Apache-2.0
// Two parts of a program pass a picture as a DLPack descriptor. Neither knows how the other one
// holds its memory; either may be another library, which need not use dlbridge.
#include <cstdio>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "dlbridge/loan_over.h"
#include "dlbridge/managed_tensor.h"
#include "dlbridge/require.h"

// Returns a descriptor that owns its memory, a vector. Its consumer calls its deleter once.
DLManagedTensorVersioned* take_picture(int64_t rows, int64_t columns) {
  std::vector<float> pixels(static_cast<size_t>(rows * columns));
  std::iota(pixels.begin(), pixels.end(), 0.0f);
  void* data = pixels.data();
  return dlbridge::to_managed(
      dlbridge::loan_over(std::move(pixels), data, dlbridge::dtype_of<float>(), {rows, columns}));
}

// Takes a descriptor of any library. Throws dlbridge::Error; the memory is freed in any case.
double mean(DLManagedTensorVersioned* picture) {
  const dlbridge::Loan loan = dlbridge::ManagedTensor::adopt(picture).to_loan();  // validated
  const dlbridge::TensorView& view = loan.view();
  dlbridge::require(view, {.dtype = dlbridge::dtype_of<float>(), .ndim = 2, .row_major = true});
  const auto* first = static_cast<const float*>(view.data);
  return std::accumulate(first, first + view.size(), 0.0) / static_cast<double>(view.size());
}

int main() {
  std::printf("mean: %g\n", mean(take_picture(3, 4)));
  DLManagedTensorVersioned* broken = take_picture(3, 4);
  broken->dl_tensor.strides[0] = INT64_MAX;
  try {
    mean(broken);
  } catch (const dlbridge::Error& error) {
    std::printf("%s: %s\n", std::string(dlbridge::name(error.code())).c_str(), error.what());
  }
}
