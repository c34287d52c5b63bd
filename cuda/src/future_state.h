// FutureState: what the holders of a Future and the operation share.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <vector>

#include "dlbridge/error.h"
#include "dlbridge/future.h"
#include "shared_loan.h"

namespace dlbridge::cuda {

class FutureState {
 public:
  /// `results` are shown once the operation is done.
  explicit FutureState(std::vector<SharedLoan> results) noexcept : results_(std::move(results)) {}
  FutureState(const FutureState&) = delete;
  FutureState& operator=(const FutureState&) = delete;
  ~FutureState();

  bool done() const noexcept { return done_.load(std::memory_order_acquire); }
  bool wait(double seconds) const noexcept;
  size_t size() const noexcept { return size_; }
  Loan result(size_t index) const;
  int descriptor();

  /// Ends it: once, by the operation. Wakes everybody.
  void succeed() noexcept;
  /// The results are dropped: what they hold is undefined. Without memory for the message only the
  /// code arrives.
  void fail(const Error& error) noexcept;

 private:
  void finish() noexcept;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::atomic<bool> done_{false};
  std::vector<SharedLoan> results_;
  size_t size_ = results_.size();
  std::optional<Error> error_;
  int descriptor_ = -1;
  const pid_t pid_ = getpid();  // of the process in which the operation runs
};

}  // namespace dlbridge::cuda
