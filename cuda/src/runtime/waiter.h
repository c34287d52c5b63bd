// Waiter: the thread that sees the operations of one copy stream end, in their order.
//
// It parks in cudaEventSynchronize, so waiting costs no processor time, and never calls Python or
// takes a stream handle of a caller. Started with the first operation, stopped when the engine is
// exchanged; at process exit it is left alone.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "runtime/cuda_api.h"

namespace dlbridge::cuda {

/// What a waiter takes over.
class Completion {
 public:
  virtual ~Completion();
  /// Waits for the operation's end and settles it. Called once, in the copy stream's context.
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

  /// Settles what was posted, then ends the thread.
  void stop() noexcept;

  /// Starts the thread if need be. Throws Error (out_of_memory) where there can be none.
  void start();

  /// Takes over. Requires: started.
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
