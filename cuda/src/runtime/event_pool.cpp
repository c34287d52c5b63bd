// SPDX-License-Identifier: Apache-2.0
#include "runtime/event_pool.h"

#include <algorithm>

#include "runtime/cuda_error.h"

namespace dlbridge::cuda {

void PooledEvent::GiveBack::operator()(cudaEvent_t event) const noexcept {
  const std::lock_guard lock(pool->mutex_);
  pool->free_.push_back(event);
}

EventPool::~EventPool() {
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

}  // namespace dlbridge::cuda
