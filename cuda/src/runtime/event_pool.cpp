// SPDX-License-Identifier: Apache-2.0
#include "runtime/event_pool.h"

#include <algorithm>

#include "runtime/cuda_error.h"

namespace dlbridge::cuda {

void PooledEvent::GiveBack::operator()(CUevent event) const noexcept {
  const std::lock_guard lock(pool->mutex_);
  pool->free_.push_back(event);
}

EventPool::~EventPool() {
  for (const CUevent event : free_) api_.event_destroy(event);
}

PooledEvent EventPool::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      const CUevent event = free_.back();
      free_.pop_back();
      return {*this, event};
    }
    if (free_.capacity() <= made_) free_.reserve(std::max<size_t>(16, 2 * made_));
    ++made_;
  }
  CUevent event = nullptr;
  const CUresult result = api_.event_create_with_flags(&event, flags_ | CU_EVENT_DISABLE_TIMING);
  if (result != CUDA_SUCCESS) {
    const std::lock_guard lock(mutex_);
    --made_;
  }
  check(result, "cuEventCreate");
  return {*this, event};
}

}  // namespace dlbridge::cuda
