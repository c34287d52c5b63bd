// SPDX-License-Identifier: Apache-2.0
#include "device/device_context.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "pinned/pool.h"
#include "runtime/cuda_error.h"
#include "runtime/guards.h"

namespace dlbridge::cuda {
namespace {

CUcontext retained_context(const CudaApi& api, int device) {
  CUcontext context = nullptr;
  check(api.device_primary_ctx_retain(&context, device), "cuDevicePrimaryCtxRetain");
  return context;
}

}  // namespace

DeviceContext::DeviceContext(const CudaApi& api, int device, PinnedPool& pool)
    : api_(api),
      index_(device),
      pool_(pool),
      context_(retained_context(api, device)),
      events_(std::make_unique<EventPool>(api, 0)),
      sleeping_events_(std::make_unique<EventPool>(api, cudaEventBlockingSync)) {
  if (api_.ctx_get_id(context_, &context_id_) != CUDA_SUCCESS) context_id_ = 0;
}

DeviceContext::~DeviceContext() {
  std::optional<CallGuard> guard;
  try {
    guard.emplace(api_, context_);
  } catch (const Error&) {
    // The device is gone; what follows does what is left to do on the host.
  }
  destroy_streams();  // first: rings have events
  sleeping_events_.reset();
  events_.reset();
  guard.reset();
  api_.device_primary_ctx_release(index_);
}

void DeviceContext::destroy_streams() noexcept {
  for (auto& copy_stream : copy_streams_) copy_stream.reset();
  for (cudaStream_t& stream : imports_) {
    if (stream != nullptr) api_.stream_destroy(std::exchange(stream, nullptr));
  }
  if (allocation_stream_ != nullptr)
    api_.stream_destroy(std::exchange(allocation_stream_, nullptr));
}

void DeviceContext::start() {
  const std::lock_guard lock(mutex_);
  if (started_) return;
  const CallGuard guard(api_, context_);
  const auto made = [this] {
    cudaStream_t stream = nullptr;
    check(api_.stream_create_with_flags(&stream, cudaStreamNonBlocking),
          "cudaStreamCreateWithFlags");
    return stream;
  };
  try {
    frees_ = std::make_unique<Waiter>(api_, context_);
    for (size_t i = 0; i < kWaiters; ++i) waiters_.emplace_back(api_, context_, i);
    for (auto& copy_stream : copy_streams_) copy_stream = std::make_unique<CopyStream>(api_);
    allocation_stream_ = made();
    for (cudaStream_t& stream : imports_) stream = made();
    const cudaError_t loaded = api_.preload_kernels();
    has_kernels_ =
        loaded != cudaErrorNoKernelImageForDevice && loaded != cudaErrorInvalidDeviceFunction;
    if (has_kernels_) check(loaded, "loading the kernels");
  } catch (...) {
    waiters_.clear();
    destroy_streams();
    throw;
  }
  started_.store(true, std::memory_order_release);
}

void DeviceContext::stop() noexcept {
  waiters_.clear();
  frees_.reset();
}

bool DeviceContext::idle() noexcept {
  const std::lock_guard lock(mutex_);
  return std::ranges::none_of(waiters_, [](const Waiter& each) { return each.in_flight > 0; });
}

WaiterUse DeviceContext::waiter_for(void* producer) {
  const std::lock_guard lock(mutex_);
  Waiter* best = &waiters_.front();
  for (Waiter& waiter : waiters_) {
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

cudaStream_t DeviceContext::import_stream() {
  const std::lock_guard lock(mutex_);
  size_t found = kImports;
  for (size_t tried = 0; tried < kImports; ++tried) {
    const size_t i = (next_import_ + tried) % kImports;
    // A producer that is being captured draws the stream that it makes wait into its capture.
    const Capture capture = capture_of(api_, imports_[i]);
    if (capture.answer != cudaSuccess || capture.active) continue;
    const bool idle = api_.stream_query(imports_[i]) == cudaSuccess;  // it waits for no producer
    if (idle || found == kImports) found = i;
    if (idle) break;
  }
  if (found < kImports) {
    next_import_ = found + 1;
    return imports_[found];
  }
  throw Error(ErrorCode::stream_capturing, "stream",
              "all streams that producers were given are part of captures that have not ended: end "
              "them first, or name a stream");
}

void DeviceContext::order(cudaStream_t earlier, cudaStream_t later) {
  const PooledEvent there = events().take();
  check(api_.event_record(there.get(), earlier), "cudaEventRecord");
  check(api_.stream_wait_event(later, there.get(), 0), "cudaStreamWaitEvent");
}

void DeviceContext::require_alive() const {
  const cudaError_t cause = cause_.load();
  if (cause == cudaSuccess) return;
  throw CudaError(cause, ErrorCode::device_failed,
                  "cuda:" + std::to_string(index_) + " failed earlier with " + error_name(cause) +
                      ", from which a process does not recover: start a new one");
}

void DeviceContext::mark_dead(cudaError_t cause) noexcept {
  if (!alive()) return;
  pool_.device_fails();  // first: a fence that leaves the device out is taken after this
  cudaError_t expected = cudaSuccess;
  cause_.compare_exchange_strong(expected, cause);
}

bool DeviceContext::context_lives() const noexcept {
  if (context_id_ == 0) return true;
  unsigned long long id = 0;
  const CUresult answer = api_.ctx_get_id(context_, &id);
  if (answer == CUDA_SUCCESS) return id == context_id_;
  return answer != CUDA_ERROR_CONTEXT_IS_DESTROYED && answer != CUDA_ERROR_INVALID_CONTEXT;
}

bool DeviceContext::fails_with(cudaError_t error) noexcept {
  if (error == cudaSuccess) return false;
  if (!is_sticky(error)) {
    if (context_lives()) return false;
    error = cudaErrorContextIsDestroyed;
  }
  mark_dead(error);
  return true;
}

void DeviceContext::require_alive_after(cudaError_t error, const char* call) {
  if (fails_with(error)) check(error, call);
}

}  // namespace dlbridge::cuda
