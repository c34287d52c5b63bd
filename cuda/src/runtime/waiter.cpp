// SPDX-License-Identifier: Apache-2.0
#include "runtime/waiter.h"

#include <string>
#include <system_error>

#include "dlbridge/error.h"
#include "runtime/guards.h"
#include "runtime/process.h"

namespace dlbridge::cuda {
namespace {

using Clock = std::chrono::steady_clock;

// PCIe 5 x16; slower buses take the blocking wait, where a wake-up matters less.
constexpr int64_t kBytesPerMicrosecond = 50'000;
constexpr std::chrono::microseconds kEarly(100);

}  // namespace

CUresult poll_event(const CudaApi& api, CUevent event, Clock::time_point until) noexcept {
  CUresult answer = CUDA_ERROR_NOT_READY;
  do {
    answer = api.event_query(event);
  } while (answer == CUDA_ERROR_NOT_READY && Clock::now() < until);
  return answer;
}

CUresult wait_for_event(const CudaApi& api, CUevent event, int64_t bytes) noexcept {
  const auto start = Clock::now();
  const std::chrono::microseconds predicted(bytes / kBytesPerMicrosecond);
  if (predicted > 2 * kEarly) std::this_thread::sleep_for(predicted - kEarly);
  const CUresult answer = poll_event(api, event, start + 2 * predicted + kEarly);
  if (answer == CUDA_ERROR_NOT_READY) return api.event_synchronize(event);
  return answer;
}

Waiter::~Waiter() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

auto Waiter::prepare(std::function<void()> body) -> Work {
  Work work;
  work.push_back(std::move(body));
  const std::lock_guard lock(mutex_);
  try {
    if (!thread_.joinable()) thread_ = start_thread([this] { run(); });
  } catch (const std::system_error& error) {
    throw Error(ErrorCode::out_of_memory, "thread",
                std::string("no thread could be made to wait for a copy: ") + error.what());
  }
  return work;
}

void Waiter::post(Work&& work) noexcept {
  const std::lock_guard lock(mutex_);
  posted_.splice(posted_.end(), work);
  changed_.notify_all();
}

void Waiter::run() noexcept {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || !posted_.empty(); });
    if (posted_.empty()) return;
    Work work;
    work.splice(work.end(), posted_, posted_.begin());
    lock.unlock();
    {
      const CallGuard guard(api_, context_, std::nothrow);  // not entered: the work fails, too
      work.front()();
      work.clear();
    }
    lock.lock();
  }
}

}  // namespace dlbridge::cuda
