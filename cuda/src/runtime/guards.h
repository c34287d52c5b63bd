// SPDX-License-Identifier: Apache-2.0
// What surrounds calls of CUDA: questions about streams and addresses, the right context, a relaxed
// capture mode.
#pragma once

#include <cstdint>
#include <new>

#include "runtime/cuda_api.h"

namespace dlbridge::cuda {

/// Whether a stream is being captured into a graph.
struct Capture {
  CUresult answer;  ///< what CUDA said to the question
  bool active;
};

/// For the legacy stream, CUDA's error that a blocking stream is captured counts as capturing.
Capture capture_of(const CudaApi& api, CUstream stream) noexcept;

enum class MemoryKind : uint8_t { pageable, pinned, device, managed };

/// What CUDA knows of an address.
struct PointerAttributes {
  CUresult answer;                         ///< what CUDA said to the question
  MemoryKind kind = MemoryKind::pageable;  ///< also if CUDA does not know it
  int device = -1;                         ///< that it is on, or was registered with
};

/// Requires: a context is current.
PointerAttributes attributes_of(const CudaApi& api, const void* address) noexcept;

/// Makes `context` current, at the cost of one query where it is already, and allows this thread
/// allocation, registration, queries and synchronisation while another thread captures in global
/// mode. Restores both.
class CallGuard {
 public:
  /// Throws Error (device_failed) if the context is gone.
  CallGuard(const CudaApi& api, CUcontext context);
  /// Does nothing if the context is gone.
  CallGuard(const CudaApi& api, CUcontext context, std::nothrow_t) noexcept;
  ~CallGuard();
  CallGuard(const CallGuard&) = delete;
  CallGuard& operator=(const CallGuard&) = delete;
  bool entered() const noexcept { return entered_ == CUDA_SUCCESS; }
  /// The context that was current before, or null.
  CUcontext callers() const noexcept { return callers_; }

 private:
  const CudaApi& api_;
  CUcontext callers_ = nullptr;
  bool pushed_ = false;
  CUresult entered_;
  CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
};

}  // namespace dlbridge::cuda
