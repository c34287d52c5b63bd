// What every call of CUDA stands inside: the right context, a relaxed capture mode, and an error
// state that is left as it was found. All RAII; all of one thread.
#pragma once

#include "runtime/cuda_api.h"

namespace dlbridge::cuda {

/// Errors after which the state of the device's work is unknown: everything in flight on it is
/// lost.
bool is_sticky(cudaError_t error) noexcept;

/// Whether a stream is being captured into a graph.
struct Capture {
  cudaError_t answer;  ///< what CUDA said to the question
  bool active;
};

/// Of the legacy stream CUDA says by an error that anything is captured: that counts as capturing.
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

/// Another thread's capture in Global mode forbids this thread allocation, registration, queries
/// and synchronisation; while this lives it does not.
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

/// Clears the thread's last error at its end if it was clear at its beginning: failures that we
/// report or handle do not surface in the caller's next check, and the caller's own stay for it to
/// find.
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
