// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/cuda/future.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>

#include "operation/operation.h"

namespace dlbridge::cuda {
namespace {

// Decades: the clock counts this in nanoseconds. Longer waits are for ever.
constexpr double kLongestWait = 1e9;

}  // namespace

FutureState::~FutureState() {
  if (fd_ >= 0) close(fd_);
}

bool FutureState::wait(double seconds) const noexcept {
  if (done()) return true;
  if (forks() != forks_) return false;  // no thread completes it in a fork's child
  std::unique_lock lock(mutex_);
  const auto over = [this] { return done(); };
  if (seconds >= 0 && seconds <= kLongestWait)
    return changed_.wait_for(lock, std::chrono::duration<double>(seconds), over);
  changed_.wait(lock, over);
  return true;
}

int FutureState::fd() {
  const std::lock_guard lock(mutex_);
  if (fd_ < 0) fd_ = eventfd(done() ? 1 : 0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd_ < 0) {
    throw Error(ErrorCode::out_of_memory, "descriptor",
                std::string("no file descriptor could be made: ") + std::strerror(errno) +
                    "; close some, or call wait()");
  }
  return fd_;
}

void FutureState::end(const Error* error) noexcept {
  try {
    if (error != nullptr) error_.emplace(*error);
  } catch (...) {
    error_.emplace(error->code(), std::string(), std::string());
  }
  const std::lock_guard lock(mutex_);
  done_.store(true, std::memory_order_release);
  if (fd_ >= 0) static_cast<void>(eventfd_write(fd_, 1));
  changed_.notify_all();
}

Future ended_with(Future::Results results) {
  auto shared = std::make_shared<const Future::Results>(std::move(results));
  auto state = std::make_shared<FutureState>();
  state->end();
  return Future(std::move(state), std::move(shared));
}

bool Future::done() const noexcept { return state_->done(); }
bool Future::wait(double seconds) const noexcept { return state_->wait(seconds); }
int Future::fd() const { return state_->fd(); }

Loan Future::result(size_t index) const {
  // An operation without results may have failed.
  const bool waits_for_error = size() == 0 && wait() && state_->error() != nullptr;
  if (index >= size() && !waits_for_error) {
    throw Error(ErrorCode::invalid_argument, "index",
                "index is " + std::to_string(index) + "; the operation has " +
                    std::to_string(size()) + " tensors");
  }
  if (!wait()) {
    throw Error(ErrorCode::after_fork, "process",
                "the copy was not done when this process was forked, and its child has no part in "
                "it: ask for the result in the parent");
  }
  if (const Error* error = state_->error()) throw Error(*error);
  return (*results_)[index].share();
}

}  // namespace dlbridge::cuda
