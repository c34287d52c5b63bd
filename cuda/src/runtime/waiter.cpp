// SPDX-License-Identifier: Apache-2.0
#include "runtime/waiter.h"

#include <cassert>
#include <chrono>
#include <optional>
#include <string>
#include <system_error>

#include "dlbridge/error.h"
#include "runtime/guards.h"
#include "runtime/signals.h"

namespace dlbridge::cuda {
namespace {

using Clock = std::chrono::steady_clock;

// PCIe 5 x16; slower buses take the blocking wait, where a wake-up matters less.
constexpr int64_t kBytesPerMicrosecond = 50'000;
constexpr std::chrono::microseconds kEarly(100);

}  // namespace

cudaError_t wait_for_event(const CudaApi& api, cudaEvent_t event, int64_t bytes) noexcept {
  const auto start = Clock::now();
  const std::chrono::microseconds predicted(bytes / kBytesPerMicrosecond);
  if (predicted > 2 * kEarly) std::this_thread::sleep_for(predicted - kEarly);
  do {
    const CUresult answer = api.event_query(event);
    if (answer != CUDA_ERROR_NOT_READY) return static_cast<cudaError_t>(answer);
  } while (Clock::now() < start + 2 * predicted + kEarly);
  return api.event_synchronize(event);
}

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
