// SPDX-License-Identifier: Apache-2.0
// RAII guards around calls of CUDA: the right context, a relaxed capture mode, the caller's last
// error. Thread: each is used by one.
#pragma once

#include "runtime/cuda_api.h"

namespace dlbridge::cuda {

/// Returns true for errors that a device does not recover from: its work in flight is lost.
bool is_sticky(cudaError_t error) noexcept;

/// Whether a stream is being captured into a graph.
struct Capture {
  cudaError_t answer;  ///< what CUDA said to the question
  bool active;
};

/// For the legacy stream, CUDA's error that a blocking stream is captured counts as capturing.
Capture capture_of(const CudaApi& api, cudaStream_t stream) noexcept;

/// Makes `context` current and restores what was current before, without creating a context
/// anywhere (cudaSetDevice would). Costs one query where it is current already.
class ContextGuard {
 public:
  /// Throws Error (device_failed).
  ContextGuard(const CudaApi& api, CUcontext context);
  ~ContextGuard();
  ContextGuard(const ContextGuard&) = delete;
  ContextGuard& operator=(const ContextGuard&) = delete;

 private:
  const CudaApi& api_;
  bool pushed_ = false;
};

/// Allows this thread allocation, registration, queries and synchronisation while another thread
/// captures in global mode.
class RelaxedCapture {
 public:
  explicit RelaxedCapture(const CudaApi& api) noexcept;
  ~RelaxedCapture();
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  const CudaApi& api_;
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

/// Restores the thread's last error: clears it at the end if it was clear at the beginning.
class LastErrorGuard {
 public:
  explicit LastErrorGuard(const CudaApi& api) noexcept
      : api_(api), was_clear_(api.peek_at_last_error() == cudaSuccess) {}
  ~LastErrorGuard() {
    if (was_clear_) api_.get_last_error();
  }
  LastErrorGuard(const LastErrorGuard&) = delete;
  LastErrorGuard& operator=(const LastErrorGuard&) = delete;

 private:
  const CudaApi& api_;
  bool was_clear_;
};

/// The three together, around one piece of work in `context`.
class CallGuard {
 public:
  CallGuard(const CudaApi& api, CUcontext context)
      : context_(api, context), error_(api), capture_(api) {}

 private:
  ContextGuard context_;  // first: without a context the others would make one
  LastErrorGuard error_;
  RelaxedCapture capture_;
};

}  // namespace dlbridge::cuda
