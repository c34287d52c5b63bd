// SPDX-License-Identifier: Apache-2.0
// CompletionState: how an operation ended, shared by the operation and its Futures.
// FutureState: that and the results, shared by the Futures alone, so that the thread that drops the
// last Future releases the results.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cassert>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "dlbridge/cuda/future.h"
#include "dlbridge/error.h"
#include "dlbridge/shared_loan.h"

namespace dlbridge::cuda {

class CompletionState {
 public:
  CompletionState() noexcept = default;
  CompletionState(const CompletionState&) = delete;
  CompletionState& operator=(const CompletionState&) = delete;
  ~CompletionState();

  bool done() const noexcept { return done_.load(std::memory_order_acquire); }
  bool wait(double seconds) const noexcept;
  int fd();
  /// Returns the error, or null. Requires: done.
  const Error* error() const noexcept {
    assert(done());
    return error_ ? &*error_ : nullptr;
  }

  /// Called once, by the operation. Wakes all waiting threads.
  void succeed() noexcept;
  /// Keeps only the code if there is no memory for the message.
  void fail(const Error& error) noexcept;

 private:
  void finish() noexcept;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::atomic<bool> done_{false};
  std::optional<Error> error_;
  int fd_ = -1;
  const pid_t pid_ = getpid();  // of the process in which the operation runs
};

class FutureState {
 public:
  /// `results` are returned once the operation has succeeded.
  explicit FutureState(std::vector<SharedLoan> results) : results_(std::move(results)) {}

  const std::shared_ptr<CompletionState>& completion() const noexcept { return completion_; }
  size_t size() const noexcept { return results_.size(); }
  Loan result(size_t index) const;

 private:
  const std::vector<SharedLoan> results_;
  const std::shared_ptr<CompletionState> completion_ = std::make_shared<CompletionState>();
};

}  // namespace dlbridge::cuda
