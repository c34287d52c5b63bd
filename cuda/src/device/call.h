// SPDX-License-Identifier: Apache-2.0
// Call: one call of this module on one device. Makes the device's context current, and checks that
// tensors and streams are those of the device. Thread: the caller's, from begin to end.
#pragma once

#include <span>

#include "device/engine.h"
#include "runtime/cuda_error.h"
#include "runtime/guards.h"

namespace dlbridge::cuda {

/// A stream that was checked: of this device, not capturing.
struct CheckedStream {
  CUstream handle = nullptr;
  bool ordered = true;  ///< false: the caller orders the work (kNoSync)
};

class Call {
 public:
  /// Throws Error (stream_invalid, stream_capturing, device_failed).
  Call(DeviceContext& found, Stream given);
  /// For tensors of one device, of which one has elements. Throws also Error (invalid_device)
  /// unless the addresses of all with elements are on it.
  Call(std::span<const TensorView> on_device, Stream given);
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  /// Starts the reuse of results that were dropped meanwhile.
  ~Call() { engine.pool().poll_if_due(); }

  CheckedStream checked(Stream given) const;

  /// Returns what `body` does; marks the device as failed if its error says so.
  template <typename Body>
  auto run(Body&& body) {
    try {
      return body();
    } catch (const CudaError& error) {
      device.fails_with(error.cuda_code());
      throw;
    }
  }

  Engine& engine;
  DeviceContext& device;
  CheckedStream stream;

 private:
  explicit Call(DeviceContext& found)
      : engine(Engine::get()), device(found), guard_(engine.api(), found.context()) {}
  void require_address(const TensorView& view) const;

  CallGuard guard_;
};

}  // namespace dlbridge::cuda
