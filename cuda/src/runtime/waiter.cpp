// SPDX-License-Identifier: Apache-2.0
#include "runtime/waiter.h"

#include <cassert>
#include <optional>
#include <string>
#include <system_error>

#include "dlbridge/error.h"
#include "runtime/guards.h"
#include "runtime/signals.h"

namespace dlbridge::cuda {
Completion::~Completion() = default;

void Waiter::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void Waiter::start() {
  const std::lock_guard lock(mutex_);
  if (thread_.joinable()) return;
  const SignalsBlocked inherited_by_the_thread;
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& error) {
    throw Error(ErrorCode::out_of_memory, "thread",
                std::string("no thread could be made to wait for a copy: ") + error.what());
  }
}

void Waiter::post(std::unique_ptr<Completion> completion) noexcept {
  const std::lock_guard lock(mutex_);
  assert(thread_.joinable());
  Completion* posted = completion.get();
  (last_ == nullptr ? first_ : last_->next_) = std::move(completion);
  last_ = posted;
  changed_.notify_all();
}

void Waiter::run() noexcept {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || first_ != nullptr; });
    if (first_ == nullptr) break;
    std::unique_ptr<Completion> completion = std::move(first_);
    first_ = std::move(completion->next_);
    if (first_ == nullptr) last_ = nullptr;
    lock.unlock();
    complete(std::move(completion));
    lock.lock();
  }
}

void Waiter::complete(std::unique_ptr<Completion> completion) noexcept {
  std::optional<CallGuard> guard;
  try {
    guard.emplace(api_, context_);
  } catch (const Error&) {
    // The context is gone: the wait fails, too.
  }
  completion->complete();
  completion.reset();
}

}  // namespace dlbridge::cuda
