// SPDX-License-Identifier: Apache-2.0
#include "device/device_context.h"

#include <algorithm>
#include <optional>
#include <string>

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
  try {
    const CallGuard guard(api_, context_);
    check(api_.preload_kernels(), "loading the kernels");
  } catch (...) {
    api_.device_primary_ctx_release(index_);
    throw;
  }
}

DeviceContext::~DeviceContext() {
  std::optional<CallGuard> guard;
  try {
    guard.emplace(api_, context_);
  } catch (const Error&) {
    // The device is gone; what follows does what is left to do on the host.
  }
  for (auto& copy_stream : copy_streams_) copy_stream.reset();
  for (const cudaStream_t stream : imports_) {
    if (stream != nullptr) api_.stream_destroy(stream);
  }
  for (const cudaStream_t stream : {free_stream_, allocation_stream_}) {
    if (stream != nullptr) api_.stream_destroy(stream);
  }
  sleeping_events_.reset();
  events_.reset();
  guard.reset();
  api_.device_primary_ctx_release(index_);
}

void DeviceContext::stop() noexcept {
  const std::lock_guard lock(mutex_);
  for (auto& copy_stream : copy_streams_) {
    if (copy_stream != nullptr) copy_stream->stop();
  }
}

bool DeviceContext::idle() noexcept {
  const std::lock_guard lock(mutex_);
  return std::none_of(copy_streams_.begin(), copy_streams_.end(), [](const auto& copy_stream) {
    return copy_stream != nullptr && copy_stream->in_flight > 0;
  });
}

CopyStreamUse DeviceContext::copy_stream_for(void* producer) {
  const std::lock_guard lock(mutex_);
  return CopyStreamUse(choose_copy_stream(producer));
}

CopyStream& DeviceContext::choose_copy_stream(void* producer) {
  size_t made = 0;
  size_t best = 0;
  for (; made < kCopyStreams && copy_streams_[made] != nullptr; ++made) {
    const int busy = copy_streams_[made]->in_flight;
    if (busy > 0 && producers_[made] == producer) return *copy_streams_[made];
    if (busy < copy_streams_[best]->in_flight) best = made;
  }
  if (made < kCopyStreams && (made == 0 || copy_streams_[best]->in_flight > 0)) {
    copy_streams_[made] = std::make_unique<CopyStream>(*this);
    best = made;
  }
  producers_[best] = producer;
  return *copy_streams_[best];
}

// Requires: the lock is held.
cudaStream_t DeviceContext::made(cudaStream_t& stream) {
  if (stream == nullptr) {
    check(api_.stream_create_with_flags(&stream, cudaStreamNonBlocking),
          "cudaStreamCreateWithFlags");
  }
  return stream;
}

cudaStream_t DeviceContext::free_stream() {
  const std::lock_guard lock(mutex_);
  return made(free_stream_);
}

cudaStream_t DeviceContext::allocation_stream() {
  const std::lock_guard lock(mutex_);
  return made(allocation_stream_);
}

cudaStream_t DeviceContext::import_stream() {
  const std::lock_guard lock(mutex_);
  for (size_t tried = 0; tried < kImports; ++tried) {
    const cudaStream_t stream = made(imports_[next_import_++ % kImports]);
    // A producer that is being captured draws the stream that it makes wait into its capture.
    const Capture capture = capture_of(api_, stream);
    if (capture.answer == cudaSuccess && !capture.active) return stream;
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

void DeviceContext::note(cudaError_t error) noexcept {
  if (is_sticky(error)) mark_dead(error);
}

void DeviceContext::require_alive_after(cudaError_t error, const char* call) {
  if (!is_sticky(error)) return;
  mark_dead(error);
  check(error, call);
}

}  // namespace dlbridge::cuda
