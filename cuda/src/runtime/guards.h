// SPDX-License-Identifier: Apache-2.0
// RAII guards around calls of CUDA: the right context, a relaxed capture mode. Thread: each is used
// by one.
#pragma once

#include <cstdint>
#include <optional>

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
  MemoryKind kind = MemoryKind::pageable;  ///< also if CUDA does not know it
  int device = -1;                         ///< that it is on, or was registered with
};
/// Returns what CUDA answers to the question.
CUresult read_attributes(const CudaApi& api, const void* address,
                         PointerAttributes& found) noexcept;

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
  CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
};

/// The same in `context`, which it makes current; restores what was current before. Costs one query
/// where it is current already.
class CallGuard {
 public:
  /// Throws Error (device_failed).
  CallGuard(const CudaApi& api, CUcontext context);
  ~CallGuard();
  CallGuard(const CallGuard&) = delete;
  CallGuard& operator=(const CallGuard&) = delete;
  /// The context that was current before, or null.
  CUcontext callers() const noexcept { return callers_; }

 private:
  const CudaApi& api_;
  CUcontext callers_ = nullptr;
  bool pushed_ = false;
  std::optional<RelaxedCapture> relaxed_;  // after the context
};

}  // namespace dlbridge::cuda
