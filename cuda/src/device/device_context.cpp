// SPDX-License-Identifier: Apache-2.0
#include "device/device_context.h"

#include <algorithm>
#include <string>

#include "pinned/pool.h"
#include "runtime/cuda_error.h"
#include "runtime/guards.h"

namespace dlbridge::cuda {
namespace {

// Whether the driver has no way from the kernels' PTX to the device.
bool cannot_compile(CUresult answer) {
  return answer == CUDA_ERROR_NO_BINARY_FOR_GPU || answer == CUDA_ERROR_INVALID_PTX ||
         answer == CUDA_ERROR_JIT_COMPILER_NOT_FOUND ||
         answer == CUDA_ERROR_UNSUPPORTED_PTX_VERSION ||
         answer == CUDA_ERROR_JIT_COMPILATION_DISABLED;
}

}  // namespace

DeviceContext::Work::Work(const CudaApi& api, CUcontext context)
    : frees(std::in_place, api, context), allocations(make_stream(api)) {
  for (size_t i = 0; i < kWaiters; ++i) waiters.emplace_back(api, context, i);
  for (size_t i = 0; i < kCopyStreams; ++i) copy_streams.emplace_back(api);
  for (size_t i = 0; i < kImports; ++i) imports.push_back(make_stream(api));
  const CUresult loaded = api.preload_kernels();
  has_kernels = !cannot_compile(loaded);
  if (has_kernels) check(loaded, "loading the kernels");
}

DeviceContext::~DeviceContext() {
  if (context() == nullptr) return;
  {
    // Not entered: what follows does what is left to do on the host.
    const CallGuard guard(api_, context(), std::nothrow);
    work_.reset();  // first: copy streams have events
    events_.reset();
  }
  api_.device_primary_ctx_release(index_);
}

// Requires: the lock.
void DeviceContext::retain() {
  if (context() != nullptr) return;
  CUcontext retained = nullptr;
  check(api_.device_primary_ctx_retain(&retained, index_), "cuDevicePrimaryCtxRetain");
  if (api_.ctx_get_id(retained, &context_id_) != CUDA_SUCCESS) context_id_ = 0;
  context_.store(retained, std::memory_order_release);
}

bool DeviceContext::has_context() {
  if (context() != nullptr) return true;
  unsigned flags = 0;
  int active = 0;
  if (api_.device_primary_ctx_get_state(index_, &flags, &active) != CUDA_SUCCESS || active == 0)
    return false;
  const std::lock_guard lock(mutex_);
  retain();
  return true;
}

void DeviceContext::start() {
  if (started()) return;
  const std::lock_guard lock(mutex_);
  if (started()) return;
  retain();
  const CallGuard guard(api_, context());
  work_.emplace(api_, context());
  started_.store(true, std::memory_order_release);
}

void DeviceContext::stop() noexcept {
  if (!started_) return;
  work_->waiters.clear();
  work_->frees.reset();
}

bool DeviceContext::idle() noexcept {
  return !started() || std::ranges::none_of(work_->waiters,
                                            [](const Waiter& each) { return each.in_flight > 0; });
}

WaiterUse DeviceContext::waiter_for(void* producer) {
  const std::lock_guard lock(mutex_);
  Waiter* best = &work_->waiters.front();
  for (Waiter& waiter : work_->waiters) {
    const int busy = waiter.in_flight;
    if (busy > 0 && waiter.producer == producer) {
      best = &waiter;
      break;
    }
    if (busy < best->in_flight) best = &waiter;
  }
  best->producer = producer;
  ++best->in_flight;
  return WaiterUse(best);
}

CUstream DeviceContext::import_stream() {
  const std::lock_guard lock(mutex_);
  const size_t turn = next_import_++;
  CUstream found = nullptr;
  for (size_t i = 0; i < kImports; ++i) {
    const CUstream stream = work_->imports[(turn + i) % kImports].get();
    // A producer that is being captured draws the stream that it makes wait into its capture.
    const Capture capture = capture_of(api_, stream);
    if (capture.answer != CUDA_SUCCESS || capture.active) continue;
    const bool idle = api_.stream_query(stream) == CUDA_SUCCESS;  // it waits for no producer
    if (idle || found == nullptr) found = stream;
    if (idle) break;
  }
  if (found != nullptr) return found;
  throw Error(ErrorCode::stream_capturing, "stream",
              "all streams that producers were given are part of captures that have not ended: end "
              "them first, or name a stream");
}

void DeviceContext::order(CUstream earlier, CUstream later) {
  if (earlier == later) return;
  const PooledEvent there = events().take();
  check(api_.event_record(there.get(), earlier), "cuEventRecord");
  check(api_.stream_wait_event(later, there.get(), 0), "cuStreamWaitEvent");
}

void DeviceContext::require_alive() {
  if (!context_lives()) mark_dead(CUDA_ERROR_CONTEXT_IS_DESTROYED);
  const CUresult cause = cause_.load();
  if (cause == CUDA_SUCCESS) return;
  throw CudaError(cause, ErrorCode::device_failed,
                  "cuda:" + std::to_string(index_) + " failed earlier with " + error_name(cause) +
                      ", from which a process does not recover: start a new one");
}

void DeviceContext::mark_dead(CUresult cause) noexcept {
  if (!alive()) return;
  pool_.device_fails();  // first: a fence that leaves the device out is taken after this
  CUresult expected = CUDA_SUCCESS;
  cause_.compare_exchange_strong(expected, cause);
}

// False if the primary context was destroyed since it was retained, as by cudaDeviceReset(): all
// handles of this module in it are stale.
bool DeviceContext::context_lives() const noexcept {
  if (context_id_ == 0) return true;
  unsigned long long id = 0;
  const CUresult answer = api_.ctx_get_id(context(), &id);
  if (answer == CUDA_SUCCESS) return id == context_id_;
  return answer != CUDA_ERROR_CONTEXT_IS_DESTROYED && answer != CUDA_ERROR_INVALID_CONTEXT;
}

bool DeviceContext::fails_with(CUresult error) noexcept {
  if (error == CUDA_SUCCESS) return false;
  if (!is_sticky(error)) {
    if (context_lives()) return false;
    error = CUDA_ERROR_CONTEXT_IS_DESTROYED;
  }
  mark_dead(error);
  return true;
}

}  // namespace dlbridge::cuda
