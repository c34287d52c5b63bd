// SPDX-License-Identifier: Apache-2.0
// Waiter: a thread that completes operations in their order. It never calls Python or uses a stream
// handle of a caller. A device has several, so that a slow producer delays few others. Started with
// its first operation; not stopped at process exit.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "runtime/cuda_api.h"

namespace dlbridge::cuda {

/// Polls an event until it has passed or failed; CUDA_ERROR_NOT_READY after `until`.
CUresult poll_event(const CudaApi& api, CUevent event,
                    std::chrono::steady_clock::time_point until) noexcept;

/// Waits for an event behind a copy of `bytes`: sleeps until shortly before the end that the bus
/// predicts, then polls. Sleeps in cuEventSynchronize if the copy takes twice as long: waking up
/// from that costs as much as some copies. Requires: an event with CU_EVENT_BLOCKING_SYNC.
CUresult wait_for_event(const CudaApi& api, CUevent event, int64_t bytes) noexcept;

class Waiter {
 public:
  /// One piece of work in a list of its own, so that posting it allocates nothing.
  using Work = std::list<std::function<void()>>;

  Waiter(const CudaApi& api, CUcontext context, size_t number = 0) noexcept
      : index(number), api_(api), context_(context) {}
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  /// Completes the posted work, then ends the thread.
  ~Waiter();

  /// Starts the thread if it does not run, and returns what post() takes: `body`, which must not
  /// throw and runs in the device's context. Throws Error (out_of_memory) if the system has no
  /// thread, std::bad_alloc.
  Work prepare(std::function<void()> body);
  /// Appends work that prepare() returned.
  void post(Work&& work) noexcept;

  const size_t index;  ///< among those of the device
  /// Operations that were assigned to it and have not ended, and the stream of the last one.
  std::atomic<int> in_flight{0};
  void* producer = nullptr;

 private:
  void run() noexcept;

  const CudaApi& api_;
  CUcontext context_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Work posted_;
  std::thread thread_;
  bool stop_ = false;
};

struct EndWaiterUse {
  void operator()(Waiter* waiter) const noexcept { --waiter->in_flight; }
};
/// Counts an operation of a waiter while it lives.
using WaiterUse = std::unique_ptr<Waiter, EndWaiterUse>;

}  // namespace dlbridge::cuda
