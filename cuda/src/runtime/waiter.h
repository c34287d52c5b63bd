// SPDX-License-Identifier: Apache-2.0
// Waiter: the thread that completes the operations of one copy stream, in their order.
// It sleeps in cudaEventSynchronize. It never calls Python or uses a stream handle of a caller.
// Started with the first operation, stopped with the engine; not stopped at process exit.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "runtime/cuda_api.h"

namespace dlbridge::cuda {

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

}  // namespace dlbridge::cuda
