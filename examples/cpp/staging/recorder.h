// What a recorder does with pictures that a GPU makes: looks at one, writes many while the next are
// on their way, and sends a mask back. It knows dlbridge and no header of CUDA.
#pragma once

#include <functional>
#include <vector>

#include "dlbridge/cuda/staging.h"
#include "dlbridge/loan.h"

namespace recorder {

/// The largest value of a float32 picture on a GPU, which `stream` is still drawing.
float brightest(const dlbridge::TensorView& picture, dlbridge::Stream stream);

/// Calls `write` with each picture, on the host, in order. While one is written the others come.
void record(std::vector<dlbridge::Loan> pictures, dlbridge::Stream stream,
            const std::function<void(const dlbridge::TensorView&)>& write);

/// A float32 mask of `value` everywhere, made in pinned memory, on its way into `target`. The mask
/// is there for whatever is enqueued on `stream` after the call.
dlbridge::cuda::Future send_mask(float value, dlbridge::Loan&& target, dlbridge::Stream stream);

}  // namespace recorder
