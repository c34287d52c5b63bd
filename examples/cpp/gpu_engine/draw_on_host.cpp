// SPDX-License-Identifier: Apache-2.0
// Draws on the host and copies the picture: for machines without a CUDA toolkit, and for tests
// without a GPU.
#include <algorithm>
#include <cstddef>
#include <utility>

#include "dlbridge/cuda/pinned_memory.h"
#include "engine.h"

namespace engine {

void draw(const dlbridge::TensorView& picture, uint8_t value, dlbridge::Stream stream) {
  dlbridge::Loan drawn = dlbridge::cuda::pinned_empty(picture);
  const auto size = static_cast<size_t>(picture.nbytes());
  auto* first = static_cast<uint8_t*>(drawn.view().data);
  std::fill_n(first, size / 2, value);
  std::fill(first + size / 2, first + size, static_cast<uint8_t>(255 - value));

  dlbridge::Loan target;  // without a deleter: the engine outlives its stream's work
  target.describe(picture);
  // The operation holds the pinned memory until the GPU has read it.
  (void)dlbridge::cuda::stage_async(std::move(drawn), std::move(target), stream);
}

}  // namespace engine
