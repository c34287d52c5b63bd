// SPDX-License-Identifier: Apache-2.0
#include "runtime/event_pool.h"

#include <algorithm>
#include <utility>

#include "runtime/cuda_error.h"

namespace dlbridge::cuda {

PooledEvent::PooledEvent(PooledEvent&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), event_(std::exchange(other.event_, nullptr)) {}

PooledEvent& PooledEvent::operator=(PooledEvent&& other) noexcept {
  PooledEvent taken(std::move(other));
  std::swap(pool_, taken.pool_);
  std::swap(event_, taken.event_);
  return *this;
}

PooledEvent::~PooledEvent() {
  if (pool_ != nullptr) pool_->give_back(event_);
}

EventPool::~EventPool() {
  if (free_.empty()) return;
  for (const cudaEvent_t event : free_) api_.event_destroy(event);
}

PooledEvent EventPool::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      const cudaEvent_t event = free_.back();
      free_.pop_back();
      return {*this, event};
    }
    if (free_.capacity() <= made_) free_.reserve(std::max<size_t>(16, 2 * made_));
    ++made_;
  }
  cudaEvent_t event = nullptr;
  const cudaError_t result = api_.event_create_with_flags(&event, flags_ | cudaEventDisableTiming);
  if (result != cudaSuccess) {
    const std::lock_guard lock(mutex_);
    --made_;
  }
  check(result, "cudaEventCreateWithFlags");
  return {*this, event};
}

void EventPool::give_back(cudaEvent_t event) noexcept {
  const std::lock_guard lock(mutex_);
  free_.push_back(event);
}

}  // namespace dlbridge::cuda
