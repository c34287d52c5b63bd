// Engine: everything this module has in one process: the table it calls through, the devices it
// has met, the pinned pool. Made on first use and left alone at process exit.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <memory>
#include <mutex>

#include "device/device_context.h"
#include "dlbridge/cuda/device.h"
#include "pinned/pool.h"

namespace dlbridge::cuda {

/// A stream that was checked: of this device, not capturing.
struct CheckedStream {
  cudaStream_t handle = nullptr;
  bool ordered = true;  ///< false: the caller orders the work (kNoSync)
};

/// What CUDA knows of memory that is said to be the host's.
struct HostPlace {
  bool pinned = false;  ///< page-locked: a device copies from and to it directly
  int device = -1;      ///< it is this device's memory instead
};

class Engine final : public FenceSource {
 public:
  /// `piece_bytes`: the most that the pool registers in one call.
  Engine(const CudaApi& api, size_t piece_bytes);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  /// Waits for all operations.
  ~Engine() override;

  /// The process's engine. Throws Error (no_driver, driver_too_old, no_device; after_fork in the
  /// child of a process that has one).
  static Engine& get();
  /// The engine if there is one in this process, else null; nothing is made.
  static Engine* existing() noexcept;
  /// Throws Error (after_fork) in the child of a process that has one: not even a query of CUDA is
  /// safe there.
  static void require_no_parent();
  /// Whether it would throw.
  static bool is_parents() noexcept;

  const CudaApi& api() const noexcept { return api_; }
  PinnedPool& pool() noexcept { return *pool_; }
  /// pool().poll(), where a device is in use.
  void poll_pool() noexcept;

  /// Throws Error (invalid_device where nobody has used the device, device_failed where it failed).
  DeviceContext& device(int index);

  /// The same, and makes the primary context of a device that nobody has used yet.
  DeviceContext& started(int index);

  /// The device whose memory `view` is in. Throws Error (invalid_device) where its address is not
  /// on the device that it names, or the address is host memory.
  DeviceContext& device_of(const TensorView& view);

  /// Requires: the device's context is current. Throws Error (stream_invalid, stream_capturing).
  CheckedStream checked(Stream stream, DeviceContext& device) const;

  /// A context to ask or register in: of a device that was met, else of the first one in use. Null
  /// where nobody uses any.
  CUcontext context_in_use();
  /// The same; where nobody uses any, the first device's is made.
  CUcontext any_context();

  /// Where `bytes` that are said to be host memory are. Requires: at least one byte.
  HostPlace host_place(const void* address, size_t bytes) const noexcept;

  /// Waits until no operation is in flight.
  bool drain(double seconds) noexcept;

  Fence fence() noexcept override;
  int passed(const PooledEvent& event) noexcept override;

 private:
  static constexpr int kMaxDevices = 64;

  DeviceContext& open(int index);
  /// Calls visit(DeviceContext&) for every device that was met.
  template <typename Visit>
  void for_each_device(Visit&& visit) noexcept {
    for (auto& slot : devices_) {
      if (DeviceContext* device = slot.load(std::memory_order_acquire)) visit(*device);
    }
  }

  const CudaApi& api_;
  pid_t pid_;
  std::mutex mutex_;  // held while a device is opened
  std::array<std::atomic<DeviceContext*>, kMaxDevices> devices_{};
  std::unique_ptr<PinnedPool> pool_;
};

}  // namespace dlbridge::cuda
