// SPDX-License-Identifier: Apache-2.0
// A table of CUDA functions that counts, remembers what is registered and fails on request, and
// fences that pass when the test says so: for the parts of the module that need nothing else of a
// device.
//
// One at a time in a process. Thread: any.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "pinned/pool.h"
#include "runtime/cuda_api.h"

namespace dlbridge::test {

class CountingApi {
 public:
  CountingApi() {
    EXPECT_EQ(g_current, nullptr);
    g_current = this;
    table_.host_register = [](void* address, size_t bytes, unsigned flags) {
      return g_current->host_register(address, bytes, flags);
    };
    table_.host_unregister = [](void* address) { return g_current->host_unregister(address); };
    table_.event_create_with_flags = [](CUevent* event, unsigned flags) {
      return g_current->event_create(event, flags);
    };
    table_.event_destroy = [](CUevent event) { return g_current->event_destroy(event); };
    table_.event_query = [](CUevent event) { return g_current->on_query(event); };
    table_.ctx_get_device = [](CUdevice* device) {
      *device = 0;
      return CUDA_SUCCESS;
    };
    table_.device_get_attribute = [](int* value, CUdevice_attribute, CUdevice) {
      *value = g_current->numa_node;
      return CUDA_SUCCESS;
    };
    table_.thread_exchange_stream_capture_mode = [](CUstreamCaptureMode* mode) {
      std::swap(*mode, g_mode);
      return CUDA_SUCCESS;
    };
    table_.ctx_get_current = [](CUcontext* context) {
      *context = g_context;
      return CUDA_SUCCESS;
    };
    table_.ctx_push_current = [](CUcontext context) {
      g_context = context;  // never more than one: what was current before was null
      return CUDA_SUCCESS;
    };
    table_.ctx_pop_current = [](CUcontext* context) {
      *context = std::exchange(g_context, nullptr);
      return CUDA_SUCCESS;
    };
  }
  CountingApi(const CountingApi&) = delete;
  CountingApi& operator=(const CountingApi&) = delete;
  ~CountingApi() {
    // What was left registered stayed mapped; the driver is gone now.
    for (const auto& [address, bytes] : registered_) munmap(address, bytes);
    g_current = nullptr;
  }

  const cuda::CudaApi& table() const { return table_; }

  /// Called before every call below, with no lock of this held.
  std::function<void()> on_call;
  /// The answer to a query of an event.
  std::function<CUresult(CUevent)> on_query;
  int numa_node = -1;  ///< of the device
  /// The call with this number, counted from 1, fails, and so do `failures` - 1 after it.
  void fail_at(size_t number, CUresult error, size_t failures = 1) {
    const std::lock_guard lock(mutex_);
    fail_first_ = calls_ + number;
    fail_last_ = fail_first_ + failures - 1;
    error_ = error;
  }
  void fail_never() { fail_at(0, CUDA_SUCCESS, 0); }

  struct Piece {
    std::byte* address;
    size_t bytes;
    unsigned flags;
    CUstreamCaptureMode mode;
  };
  size_t calls() const { return locked(calls_); }
  size_t registered() const { return locked(registered_bytes_); }
  size_t most_registered() const { return locked(most_registered_); }
  size_t events() const { return locked(events_.size()); }
  std::vector<Piece> pieces() const { return locked(pieces_); }  ///< registered ever, in order
  static CUresult& last_error() { return g_last_error; }
  static CUcontext& context() { return g_context; }  ///< that is current on this thread
  static CUstreamCaptureMode& mode() { return g_mode; }

 private:
  template <typename T>
  T locked(const T& value) const {
    const std::lock_guard lock(mutex_);
    return value;
  }

  CUresult begin() {
    if (on_call) on_call();
    const std::lock_guard lock(mutex_);
    ++calls_;
    if (calls_ < fail_first_ || calls_ > fail_last_) return CUDA_SUCCESS;
    return error_;
  }

  CUresult host_register(void* address, size_t bytes, unsigned flags) {
    if (const CUresult error = begin()) return error;
    const std::lock_guard lock(mutex_);
    EXPECT_TRUE(registered_.emplace(address, bytes).second);
    registered_bytes_ += bytes;
    most_registered_ = std::max(most_registered_, registered_bytes_);
    pieces_.push_back({static_cast<std::byte*>(address), bytes, flags, g_mode});
    return CUDA_SUCCESS;
  }

  CUresult host_unregister(void* address) {
    if (const CUresult error = begin()) return error;
    EXPECT_EQ(g_mode, CU_STREAM_CAPTURE_MODE_RELAXED);
    const std::lock_guard lock(mutex_);
    const auto found = registered_.find(address);
    if (found == registered_.end()) {
      ADD_FAILURE() << "unregistering what is not registered";
      return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    }
    registered_bytes_ -= found->second;
    registered_.erase(found);
    return CUDA_SUCCESS;
  }

  CUresult event_create(CUevent* event, unsigned flags) {
    if (const CUresult error = begin()) return error;
    EXPECT_NE(flags & CU_EVENT_DISABLE_TIMING, 0u);
    const std::lock_guard lock(mutex_);
    *event = reinterpret_cast<CUevent>(++last_event_ * 16);
    events_.insert(*event);
    return CUDA_SUCCESS;
  }

  CUresult event_destroy(CUevent event) {
    if (const CUresult error = begin()) return error;
    const std::lock_guard lock(mutex_);
    EXPECT_EQ(events_.erase(event), 1u);
    return CUDA_SUCCESS;
  }

  static inline CountingApi* g_current = nullptr;
  static inline thread_local CUresult g_last_error = CUDA_SUCCESS;
  static inline thread_local CUcontext g_context = nullptr;
  static inline thread_local CUstreamCaptureMode g_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

  cuda::CudaApi table_{};
  mutable std::mutex mutex_;
  size_t calls_ = 0;
  size_t fail_first_ = 0;
  size_t fail_last_ = 0;
  CUresult error_ = CUDA_SUCCESS;
  std::map<void*, size_t> registered_;
  std::vector<Piece> pieces_;
  size_t registered_bytes_ = 0;
  size_t most_registered_ = 0;
  std::set<CUevent> events_;
  uintptr_t last_event_ = 0;
};

/// Fences of one device, and tickets: both pass at once unless held back.
class TestFences {
 public:
  explicit TestFences(CountingApi& api) : api_(api), events_(api.table()) {
    api.on_query = [this](CUevent event) { return passed(event); };
  }

  /// A ticket that passes when the test says pass(), or fail().
  cuda::PooledEvent ticket() {
    cuda::PooledEvent event = events_.take();
    const std::lock_guard lock(mutex_);
    states_[event.get()] = CUDA_ERROR_NOT_READY;
    fences_.erase(event.get());  // it may have been one before
    return event;
  }
  cuda::PooledEvent passed_ticket() {
    cuda::PooledEvent event = ticket();
    pass(event.get());
    return event;
  }
  void pass(CUevent event) { set(event, CUDA_SUCCESS); }
  void fail(CUevent event) { set(event, CUDA_ERROR_LAUNCH_FAILED); }

  /// From now on fences do not pass, until pass_fences().
  void hold_fences() { new_fences_ = CUDA_ERROR_NOT_READY; }
  void pass_fences() {
    new_fences_ = CUDA_SUCCESS;
    const std::lock_guard lock(mutex_);
    for (const CUevent event : fences_) states_[event] = CUDA_SUCCESS;
  }
  void fail_fences() { new_fences_ = CUDA_ERROR_LAUNCH_FAILED; }
  /// From now on a fence passes when it is asked for `count` times.
  void pass_fences_after(int count) {
    hold_fences();
    patience_ = count;
  }
  std::atomic<bool> no_device{false};    ///< fences are empty
  std::atomic<bool> capturing{false};    ///< no fence now
  std::atomic<bool> fence_fails{false};  ///< fences could not be taken
  std::atomic<int> taken{0};             ///< fences
  std::atomic<int> polls{0};

  std::optional<cuda::Fence> operator()(bool) {
    if (api_.on_call) api_.on_call();
    ++taken;
    if (capturing) return std::nullopt;
    if (fence_fails) throw Error(ErrorCode::device_failed, "device", "no fence");
    cuda::Fence fence;
    if (no_device) return fence;
    fence.push_back(ticket());
    const std::lock_guard lock(mutex_);
    const CUevent event = fence.back().get();
    states_[event] = new_fences_;
    fences_.insert(event);
    return fence;
  }

 private:
  CUresult passed(CUevent event) {
    if (api_.on_call) api_.on_call();
    ++polls;
    const std::lock_guard lock(mutex_);
    CUresult& state = states_.at(event);
    if (patience_ > 0 && state == CUDA_ERROR_NOT_READY && fences_.contains(event) &&
        --patience_ == 0)
      state = CUDA_SUCCESS;
    return state;
  }
  void set(CUevent event, CUresult state) {
    const std::lock_guard lock(mutex_);
    states_[event] = state;
  }

  const CountingApi& api_;
  cuda::EventPool events_;
  std::mutex mutex_;
  std::map<CUevent, CUresult> states_;
  std::set<CUevent> fences_;
  std::atomic<CUresult> new_fences_{CUDA_SUCCESS};
  int patience_ = 0;
};

/// Whether the page at `address` is mapped.
inline bool is_mapped(const void* address) {
  unsigned char resident = 0;
  const auto page = reinterpret_cast<uintptr_t>(address) & ~uintptr_t{4095};
  return mincore(reinterpret_cast<void*>(page), 4096, &resident) == 0;
}

inline void expect_consistent(const cuda::PinnedStats& stats) {
  EXPECT_EQ(stats.free + stats.owned + stats.in_flight + stats.quarantined + stats.leaked,
            stats.registered);
  for (const size_t bytes :
       {stats.free, stats.owned, stats.in_flight, stats.quarantined, stats.leaked})
    EXPECT_LE(bytes, stats.registered);
}

}  // namespace dlbridge::test
