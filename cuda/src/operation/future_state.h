// SPDX-License-Identifier: Apache-2.0
// FutureState: whether an operation has ended, and how. Shared by the operation and its Futures.
// Thread: any.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>

#include "dlbridge/cuda/future.h"
#include "dlbridge/error.h"
#include "runtime/process.h"

namespace dlbridge::cuda {

class FutureState {
 public:
  FutureState() noexcept = default;
  FutureState(const FutureState&) = delete;
  FutureState& operator=(const FutureState&) = delete;
  ~FutureState();

  bool done() const noexcept { return done_.load(std::memory_order_acquire); }
  bool wait(double seconds) const noexcept;
  int fd();
  /// Returns the error, or null. Requires: done.
  const Error* error() const noexcept { return error_ ? &*error_ : nullptr; }

  /// Called once, by the operation. Wakes all waiting threads. Keeps only the code of `error` if
  /// there is no memory for the message.
  void end(const Error* error = nullptr) noexcept;

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::atomic<bool> done_{false};
  std::optional<Error> error_;
  int fd_ = -1;
  const unsigned forks_ = forks();  // of the process in which the operation runs
};

/// A Future that is done, of copies that move nothing.
Future ended_with(Future::Results results);

}  // namespace dlbridge::cuda
