// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/cuda/future.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "operation/completion_state.h"

namespace dlbridge::cuda {
namespace {

// Decades: the clock counts this in nanoseconds. Longer waits are for ever.
constexpr double kLongestWait = 1e9;

void make_readable(int fd) noexcept {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(fd, &one, sizeof one);
}

}  // namespace

CompletionState::~CompletionState() {
  if (fd_ >= 0) close(fd_);
}

bool CompletionState::wait(double seconds) const noexcept {
  if (done()) return true;
  if (getpid() != pid_) return false;  // no thread completes it in a fork's child
  std::unique_lock lock(mutex_);
  const auto over = [this] { return done(); };
  if (seconds < 0 || seconds > kLongestWait) {
    changed_.wait(lock, over);
    return true;
  }
  return changed_.wait_for(lock, std::chrono::duration<double>(seconds), over);
}

int CompletionState::fd() {
  const std::lock_guard lock(mutex_);
  if (fd_ < 0) {
    fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd_ < 0) {
      throw Error(ErrorCode::out_of_memory, "descriptor",
                  std::string("no file descriptor could be made: ") + std::strerror(errno) +
                      "; close some, or call wait()");
    }
    if (done()) make_readable(fd_);
  }
  return fd_;
}

void CompletionState::succeed() noexcept { finish(); }

void CompletionState::finish() noexcept {
  const std::lock_guard lock(mutex_);
  done_.store(true, std::memory_order_release);
  if (fd_ >= 0) make_readable(fd_);
  changed_.notify_all();
}

void CompletionState::fail(const Error& error) noexcept {
  try {
    error_.emplace(error);
  } catch (...) {
    error_.emplace(error.code(), std::string(), std::string());
  }
  finish();
}

Loan FutureState::result(size_t index) const {
  // An operation without results may have failed.
  const size_t count = size();
  if (index >= count && !(count == 0 && completion_->wait(-1) && completion_->error() != nullptr)) {
    throw Error(ErrorCode::invalid_argument, "index",
                "index is " + std::to_string(index) + "; the operation has " +
                    std::to_string(count) + " tensors");
  }
  if (!completion_->wait(-1)) {
    throw Error(ErrorCode::after_fork, "process",
                "the copy was not done when this process was forked, and its child has no part in "
                "it: ask for the result in the parent");
  }
  if (const Error* error = completion_->error()) throw Error(*error);
  return results_[index].share();
}

Future::Future() noexcept = default;
Future::Future(std::shared_ptr<FutureState> state) noexcept : state_(std::move(state)) {}
Future::Future(const Future&) noexcept = default;
Future::Future(Future&&) noexcept = default;
Future& Future::operator=(const Future&) noexcept = default;
Future& Future::operator=(Future&&) noexcept = default;
Future::~Future() = default;

Future::operator bool() const noexcept { return state_ != nullptr; }
bool Future::done() const noexcept { return state_->completion()->done(); }
bool Future::wait(double seconds) const noexcept { return state_->completion()->wait(seconds); }
size_t Future::size() const noexcept { return state_->size(); }
Loan Future::result(size_t index) const { return state_->result(index); }
int Future::fd() const { return state_->completion()->fd(); }

}  // namespace dlbridge::cuda
