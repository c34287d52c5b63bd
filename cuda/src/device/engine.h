// SPDX-License-Identifier: Apache-2.0
// Engine: the state of this module in one process: its function table, its devices, the pinned
// pool. Created on first use; not destroyed at process exit.
#pragma once

#include <deque>
#include <optional>

#include "device/device_context.h"
#include "dlbridge/cuda/device.h"
#include "pinned/pool.h"
#include "runtime/guards.h"
#include "runtime/process.h"

namespace dlbridge::cuda {

class Engine {
 public:
  /// `piece_bytes`: the most that the pool registers in one call. Requires: `found` is usable.
  Engine(const CudaApi& api, size_t piece_bytes, const Availability& found);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  /// For tests that replace it: waits for all operations, stops its threads, unregisters its memory
  /// and frees its devices. Results may still be held.
  void end();

  /// The process's engine. Throws Error (no_driver, driver_too_old, no_device; after_fork in the
  /// child of a process that has one).
  static Engine& get();
  /// Returns the engine of this process, or null. Creates nothing.
  static Engine* existing() noexcept;
  /// What made this engine possible. It does not change afterwards.
  const Availability& found() const noexcept { return found_; }
  /// Throws Error (after_fork) in the child of a process that has an engine: no call of CUDA is
  /// safe there.
  static void require_no_parent();

  const CudaApi& api() const noexcept { return api_; }
  PinnedPool& pool() noexcept { return pool_; }

  /// Throws Error (invalid_device) unless this machine has the device.
  void require_index(int index) const;
  /// Returns a device that has a primary context, started. Throws Error (invalid_device if it has
  /// none, device_failed if it failed).
  DeviceContext& device(int index);
  /// The same; creates the primary context if there is none.
  DeviceContext& started(int index);

  /// Returns the device of a context, -1 if CUDA does not say. Requires: a context is current.
  int device_of_context(CUcontext context) const noexcept;
  /// Returns the device whose primary context this is, or -1. Does not ask the context: a green one
  /// may be current to another thread, and only to one.
  int device_with_primary(CUcontext context);
  /// attributes_of() in a context_in_use(), if there is one.
  PointerAttributes find(const void* address);

  /// Returns a primary context for queries and registrations: of a device that has one, the current
  /// device first. Null if none has. Throws Error (device_failed).
  CUcontext context_in_use();
  /// The same; creates that of the first device if none has one.
  CUcontext any_context();

  /// Waits until no operation is in flight.
  bool drain(double seconds) noexcept;

 private:
  std::optional<Fence> fence(bool urgent);

  const CudaApi& api_;
  const Availability found_;
  const unsigned forks_ = forks();
  std::deque<DeviceContext> devices_;
  PinnedPool pool_;
};

}  // namespace dlbridge::cuda
