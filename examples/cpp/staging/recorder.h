// SPDX-License-Identifier: Apache-2.0
// A recorder of pictures on a GPU: it looks at one, writes many while the next are copied, and
// copies a mask to the GPU. It includes no CUDA header.
#pragma once

#include <functional>
#include <vector>

#include "dlbridge/cuda/staging.h"
#include "dlbridge/loan.h"

namespace recorder {

/// Returns the largest value of a float32 picture on a GPU, which `stream` may still be drawing.
float brightest(const dlbridge::TensorView& picture, dlbridge::Stream stream);

/// Calls `write` with each picture, on the host, in order, while the next ones are copied.
void record(std::vector<dlbridge::Loan> pictures, dlbridge::Stream stream,
            const std::function<void(const dlbridge::TensorView&)>& write);

/// Starts the copy of a float32 mask of `value` from pinned memory into `target`. Work that is
/// enqueued on `stream` after the call sees the mask.
dlbridge::cuda::Future send_mask(float value, dlbridge::Loan&& target, dlbridge::Stream stream);

}  // namespace recorder
