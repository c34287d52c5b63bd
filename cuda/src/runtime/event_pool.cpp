// SPDX-License-Identifier: Apache-2.0
#include "runtime/event_pool.h"

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
  CUevent event = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      event = free_.back();
      free_.pop_back();
      return {*this, event};
    }
    free_.reserve(++made_);
  }
  check(api_.event_create_with_flags(&event, CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING),
        "cuEventCreate");
  return {*this, event};
}

}  // namespace dlbridge::cuda
