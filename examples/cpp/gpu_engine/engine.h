// SPDX-License-Identifier: Apache-2.0
// An engine that draws pictures on a GPU, on its own stream. It uses dlbridge, but neither Python
// nor a framework.
#pragma once

#include <cstdint>
#include <memory>

#include "dlbridge/cuda/future.h"
#include "dlbridge/cuda/staging.h"
#include "dlbridge/loan.h"

namespace engine {

/// Enqueues the drawing of a uint8 picture: the upper half is `value`, the lower half 255 -
/// `value`. draw_on_gpu.cpp and draw_on_host.cpp implement it.
void draw(const dlbridge::TensorView& picture, uint8_t value, dlbridge::Stream stream);

/// Owns: a reference to the picture's memory. Thread: one at a time.
class Engine {
 public:
  /// Throws dlbridge::Error, such as no_driver.
  Engine(int64_t rows, int64_t columns);

  /// Draws the next picture over the last one. Does not wait.
  void draw(uint8_t value) { engine::draw(picture_->view(), value, stream_); }

  /// Returns the picture on the GPU. Later drawing changes it.
  dlbridge::Loan acquire() const;

  /// Starts a copy of the picture to the host. Later drawing does not change the copy.
  dlbridge::cuda::Future bring() const;

  dlbridge::Stream stream() const noexcept { return stream_; }

 private:
  dlbridge::Stream stream_;
  std::shared_ptr<const dlbridge::Loan> picture_;
};

}  // namespace engine
