// SPDX-License-Identifier: Apache-2.0
// RAII guards around calls of CUDA: the right context, a relaxed capture mode. Thread: each is used
// by one.
#pragma once

#include "runtime/cuda_api.h"

namespace dlbridge::cuda {

/// Returns true for errors that a device does not recover from: its work in flight is lost. Not for
/// cudaErrorContextIsDestroyed, which some drivers answer for the handle of a destroyed stream:
/// DeviceContext::fails_with() asks the context.
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
  /// The context that was current before, or null.
  CUcontext callers() const noexcept { return callers_; }

 private:
  const CudaApi& api_;
  CUcontext callers_ = nullptr;
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

/// Both together, around one piece of work in `context`.
class CallGuard {
 public:
  CallGuard(const CudaApi& api, CUcontext context) : context_(api, context), capture_(api) {}
  CUcontext callers() const noexcept { return context_.callers(); }

 private:
  ContextGuard context_;  // first: without a context the other would make one
  RelaxedCapture capture_;
};

}  // namespace dlbridge::cuda
