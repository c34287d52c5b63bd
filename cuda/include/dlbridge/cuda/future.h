// SPDX-License-Identifier: Apache-2.0
// Future: the outcome of an asynchronous staging. A shared handle: copies refer to one operation.
// Dropping every Future of an operation neither waits nor cancels. The operation holds its sources
// and results until it is done. Then the Futures and what result() returned hold the results; the
// last of them releases an `out`, on the thread that drops it. Thread: any, concurrently.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "dlbridge/export.h"
#include "dlbridge/loan.h"
#include "dlbridge/shared_loan.h"

namespace dlbridge::cuda {

class FutureState;

class DLBRIDGE_API Future {
 public:
  using Results = std::vector<SharedLoan>;

  Future() noexcept = default;
  Future(std::shared_ptr<FutureState> state, std::shared_ptr<const Results> results) noexcept
      : state_(std::move(state)), results_(std::move(results)) {}

  /// Returns true if it refers to an operation. The functions below require that.
  explicit operator bool() const noexcept { return state_ != nullptr; }

  /// Returns true if the operation has succeeded or failed. Never waits.
  bool done() const noexcept;

  /// Waits until done, at most `seconds`; negative means for ever. Returns true if it
  /// is done. In the child of a fork an unfinished operation never completes: returns false at
  /// once.
  bool wait(double seconds = -1) const noexcept;

  /// Returns the number of results: one, or those of a batch.
  size_t size() const noexcept { return results_->size(); }

  /// Waits, then returns a share in the i-th result: the same memory on every call, from any
  /// thread. Throws the operation's Error, the same on every call; Error (invalid_argument) for an
  /// index beyond size(); Error (after_fork) in a child if the operation was not done.
  Loan result(size_t index = 0) const;

  /// A file descriptor that becomes readable (poll, epoll, asyncio's add_reader) when the operation
  /// is done. The operation owns it; it is valid as long as any Future of it. Throws Error
  /// (out_of_memory) if the process has no file descriptor left.
  int fd() const;

 private:
  std::shared_ptr<FutureState> state_;
  std::shared_ptr<const Results> results_;  // not the operation's: a Future releases the last one
};

}  // namespace dlbridge::cuda
