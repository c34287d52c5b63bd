// SPDX-License-Identifier: Apache-2.0
#include "recorder.h"

#include <algorithm>
#include <utility>

#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/cuda/staging.h"

namespace recorder {

using dlbridge::Loan;
using dlbridge::Stream;
using dlbridge::TensorView;
using dlbridge::cuda::Future;

float brightest(const TensorView& picture, Stream stream) {
  // Reads after the present work of the stream, and returns when the host may read.
  const Loan on_host = dlbridge::cuda::stage_to_host(picture, stream, {.row_major = true});
  const auto* first = static_cast<const float*>(on_host.view().data);
  return *std::max_element(first, first + on_host.view().size());
}

void record(std::vector<Loan> pictures, Stream stream,
            const std::function<void(const TensorView&)>& write) {
  std::vector<Future> coming;
  for (Loan& picture : pictures) {
    // Each operation owns its picture until the copy is done. Later work of the stream waits for
    // the copy, so the GPU may draw into the same memory at once.
    coming.push_back(dlbridge::cuda::stage_to_host_async(std::move(picture), stream));
  }
  for (const Future& future : coming) {
    const Loan on_host = future.result();  // waits; throws if the copy failed
    write(on_host.view());
  }
}

Future send_mask(float value, Loan&& target, Stream stream) {
  Loan mask = dlbridge::cuda::pinned_empty(target.view());
  auto* first = static_cast<float*>(mask.view().data);
  std::fill(first, first + mask.view().size(), value);
  // The GPU reads the mask until the Future is done; the operation holds it.
  return dlbridge::cuda::stage_async(std::move(mask), std::move(target), stream);
}

}  // namespace recorder
