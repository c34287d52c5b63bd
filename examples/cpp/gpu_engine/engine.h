// An engine that draws pictures on a GPU, on a stream of its own. It knows dlbridge, and neither
// Python nor NumPy nor a framework.
#pragma once

#include <cstdint>
#include <memory>

#include "dlbridge/cuda/future.h"
#include "dlbridge/cuda/staging.h"
#include "dlbridge/loan.h"

namespace engine {

/// Enqueues the drawing of a uint8 picture: the upper half is `value`, the lower half what is
/// missing to 255. This is all that depends on who draws: draw_on_gpu.cpp, draw_on_host.cpp.
void draw(const dlbridge::TensorView& picture, uint8_t value, dlbridge::Stream stream);

/// Owns: the picture's memory, shared with whoever was lent it. Thread: one at a time.
class Engine {
 public:
  /// Throws dlbridge::Error, such as no_driver.
  Engine(int64_t rows, int64_t columns);

  /// Draws the next picture over the last one. Does not wait.
  void draw(uint8_t value) { engine::draw(picture_->view(), value, stream_); }

  /// The picture where it is. What is drawn after this shows in it.
  dlbridge::Loan acquire() const;

  /// The picture as it is now, on its way to the host. What is drawn after this does not show in
  /// it.
  dlbridge::cuda::Future bring() const;

  dlbridge::Stream stream() const noexcept { return stream_; }

 private:
  dlbridge::Stream stream_;
  std::shared_ptr<const dlbridge::Loan> picture_;
};

}  // namespace engine
