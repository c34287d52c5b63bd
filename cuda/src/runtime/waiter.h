// SPDX-License-Identifier: Apache-2.0
// Waiter: a thread that completes operations in their order. It never calls Python or uses a stream
// handle of a caller. A device has several, so that a slow producer delays few others. Started with
// its first operation, stopped with the engine; not stopped at process exit.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "runtime/cuda_api.h"

namespace dlbridge::cuda {

/// Waits for an event behind a copy of `bytes`: sleeps until shortly before the end that the bus
/// predicts, then polls. Sleeps in cudaEventSynchronize if the copy takes twice as long: waking up
/// from that costs as much as some copies. Requires: an event with cudaEventBlockingSync.
cudaError_t wait_for_event(const CudaApi& api, cudaEvent_t event, int64_t bytes) noexcept;

/// Work for a waiter.
class Completion {
 public:
  virtual ~Completion();
  /// Waits for the operation's end and completes it. Called once, in the device's context.
  virtual void complete() noexcept = 0;

 private:
  friend class Waiter;
  std::unique_ptr<Completion> next_;  // so that posting allocates nothing
};

class Waiter {
 public:
  Waiter(const CudaApi& api, CUcontext context) noexcept : api_(api), context_(context) {}
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  ~Waiter() { stop(); }

  /// Completes the posted work, then ends the thread.
  void stop() noexcept;

  /// Starts the thread if it does not run. Throws Error (out_of_memory) if the system refuses.
  void start();

  /// Appends work. Requires: started.
  void post(std::unique_ptr<Completion> completion) noexcept;

  /// Operations that were assigned to it and have not ended, and the stream of the last one.
  std::atomic<int> in_flight{0};
  void* producer = nullptr;

 private:
  void run() noexcept;
  void complete(std::unique_ptr<Completion> completion) noexcept;

  const CudaApi& api_;
  CUcontext context_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::unique_ptr<Completion> first_;
  Completion* last_ = nullptr;
  std::thread thread_;
  bool stop_ = false;
};

/// Counts an operation of a waiter while it lives.
class WaiterUse {
 public:
  explicit WaiterUse(Waiter& waiter) noexcept : waiter_(&waiter) { ++waiter.in_flight; }
  WaiterUse(WaiterUse&& other) noexcept : waiter_(std::exchange(other.waiter_, nullptr)) {}
  WaiterUse& operator=(WaiterUse&&) = delete;
  ~WaiterUse() {
    if (waiter_ != nullptr) --waiter_->in_flight;
  }
  Waiter& waiter() const noexcept { return *waiter_; }

 private:
  Waiter* waiter_;
};

}  // namespace dlbridge::cuda
