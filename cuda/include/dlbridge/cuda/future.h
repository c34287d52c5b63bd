// Future: the outcome of an asynchronous staging. A shared handle: copies name the same operation.
//
// The operation does not belong to it: dropping every Future of an operation neither waits nor
// cancels. The operation has a share in what it was given, and in its results, until it is done.
// From then on the results belong to the Futures and to what result() returned: the last of them to
// go gives an `out` back, on its own thread. Thread: any, concurrently.
#pragma once

#include <cstddef>
#include <memory>

#include "dlbridge/export.h"
#include "dlbridge/loan.h"

namespace dlbridge::cuda {

class FutureState;

class DLBRIDGE_API Future {
 public:
  Future() noexcept;
  explicit Future(std::shared_ptr<FutureState> state) noexcept;
  Future(const Future&) noexcept;
  Future(Future&&) noexcept;
  Future& operator=(const Future&) noexcept;
  Future& operator=(Future&&) noexcept;
  ~Future();

  /// Whether it belongs to an operation at all. Everything below requires it.
  explicit operator bool() const noexcept;

  /// Whether the operation has ended, well or badly. Never waits.
  bool done() const noexcept;

  /// Waits until done, at most `seconds`; negative means for ever. Whether it is done. In the child
  /// of a fork an operation that was not done by then never is, and nobody waits for it.
  bool wait(double seconds = -1) const noexcept;

  /// How many tensors the operation brings: one, or those of a batch.
  size_t size() const noexcept;

  /// Waits, then returns a share in the i-th result: the same memory on every call, from any
  /// thread. Throws the operation's Error, the same on every call; Error (invalid_argument) for an
  /// index beyond size(), after_fork in a child for what was not done.
  Loan result(size_t index = 0) const;

  /// A file descriptor that becomes readable (poll, epoll, asyncio's add_reader) when the operation
  /// is done. Belongs to the Future's operation and lives as long as any Future of it. Throws Error
  /// (out_of_memory) where the process has no descriptor left.
  int fd() const;

 private:
  std::shared_ptr<FutureState> state_;
};

}  // namespace dlbridge::cuda
