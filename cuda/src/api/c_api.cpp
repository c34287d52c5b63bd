// SPDX-License-Identifier: Apache-2.0
// The C ABI over the staging functions: arguments in, one call, a status out.
#include "dlbridge/cuda/c_api.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/cuda/staging.h"
#include "dlbridge/detail/c_boundary.h"
#include "dlbridge/managed_tensor.h"
#include "dlbridge/validate.h"

struct dlb_future {
  explicit dlb_future(dlbridge::cuda::Future&& started) noexcept : future(std::move(started)) {}
  const dlbridge::cuda::Future future;
};

namespace dlbridge::cuda {
namespace {

using c_api::guarded;
using c_api::make_handle;
using c_api::make_into;
using c_api::required;
using c_api::share_handle;
using c_api::sized;

constexpr int64_t kAllFlags = 2 * DLBRIDGE_CUDA_ROW_MAJOR - 1;  // beyond the last bit: not known

static_assert(kLegacyStream == DLBRIDGE_CUDA_LEGACY_STREAM &&
              kPerThreadStream == DLBRIDGE_CUDA_PER_THREAD_STREAM &&
              kNoSync == DLBRIDGE_CUDA_NO_SYNC);

StageOptions options_of(const dlb_cuda_options* given) {
  if (given == nullptr) return {};
  const dlb_cuda_options& options = sized(given, "dlb_cuda_options");
  c_api::require_range(options.flags, kAllFlags, "flags");
  c_api::require_range(options.reserved, 0, "reserved");
  StageOptions out;
  out.snapshot = (options.flags & DLBRIDGE_CUDA_NO_SNAPSHOT) == 0;
  out.borrow = (options.flags & DLBRIDGE_CUDA_BORROW) != 0;
  out.row_major = (options.flags & DLBRIDGE_CUDA_ROW_MAJOR) != 0;
  return out;
}

// The tensors of a call, as descriptors that are borrowed or handles that are shared.
class Batch {
 public:
  Batch(const DLManagedTensorVersioned* const* managed, size_t count, const char* field) {
    if (count > 0) required(managed, field);
    loans.resize(count);
    for (size_t i = 0; i < count; ++i) {
      describe_managed(managed[i], loans[i]);
      views.push_back(loans[i].view());
    }
  }
  Batch(dlb_tensor* const* handles, size_t count, const char* field) {
    if (count > 0) required(handles, field);
    for (size_t i = 0; i < count; ++i) loans.push_back(share_handle(handles[i], field));
  }

  std::vector<Loan> loans;
  std::vector<TensorView> views;
};

// The stream `handle` of the device that the first tensor on a device is on.
Stream stream_beside(std::initializer_list<const Batch*> sides, intptr_t handle) {
  for (const Batch* side : sides) {
    if (side->loans.empty() || !Device(side->loans[0].view().device).is_cuda()) continue;
    return stream_of(side->loans[0].view().device.device_id, handle);
  }
  return stream_of(0, handle);
}

double seconds_of(double seconds) {
  if (!std::isnan(seconds)) return seconds;
  throw Error(ErrorCode::invalid_argument, "seconds", "seconds is not a number; expected one");
}

const Future& future_of(const dlb_future* future) { return required(future, "future").future; }

}  // namespace
}  // namespace dlbridge::cuda

using namespace dlbridge;
using namespace dlbridge::cuda;

// ---- The machine

dlb_status dlb_cuda_availability(dlb_cuda_info* info) noexcept {
  return guarded([&] {
    dlb_cuda_info& out = sized(info, "dlb_cuda_info");
    const Availability found = availability();
    if (out.message != nullptr) c_api::write_text(found.message, out.message, out.message_capacity);
    out.message_length = found.message.size();
    out.reason = found.usable ? "" : name(found.reason).data();  // literals
    out.usable = found.usable;
    out.driver_version = found.driver_version;
    out.runtime_version = found.runtime_version;
    out.device_count = found.device_count;
  });
}

dlb_status dlb_cuda_register_staging() noexcept {
  return guarded([] { register_cuda_staging(); });
}

dlb_status dlb_cuda_drain(double seconds, int32_t* drained) noexcept {
  return guarded([&] { required(drained, "drained") = drain(seconds_of(seconds)); });
}

// ---- Staging

dlb_status dlb_cuda_stage_to_host(const DLManagedTensorVersioned* const* sources, size_t count,
                                  intptr_t producer, const dlb_cuda_options* options,
                                  dlb_tensor** results) noexcept {
  return guarded([&] {
    if (count > 0) required(results, "results");
    std::fill_n(results, count, nullptr);
    const StageOptions how = options_of(options);
    const Batch from(sources, count, "sources");
    std::vector<Loan> loans = stage_to_host(from.views, stream_beside({&from}, producer), how);
    try {
      for (size_t i = 0; i < count; ++i) results[i] = make_handle(std::move(loans[i]));
    } catch (...) {
      for (size_t i = 0; i < count; ++i) dlb_tensor_release(std::exchange(results[i], nullptr));
      throw;
    }
  });
}

dlb_status dlb_cuda_stage(const DLManagedTensorVersioned* const* sources,
                          const DLManagedTensorVersioned* const* targets, size_t count,
                          intptr_t stream) noexcept {
  return guarded([&] {
    const Batch from(sources, count, "sources");
    const Batch to(targets, count, "targets");
    stage(from.views, to.views, stream_beside({&from, &to}, stream));
  });
}

dlb_status dlb_cuda_stage_to_host_async(dlb_tensor* const* sources, size_t count, intptr_t producer,
                                        const dlb_cuda_options* options,
                                        dlb_future** future) noexcept {
  return make_into(future, "future", [&] {
    const StageOptions how = options_of(options);
    Batch from(sources, count, "sources");
    return new dlb_future(stage_to_host_async(from.loans, stream_beside({&from}, producer), how));
  });
}

dlb_status dlb_cuda_stage_async(dlb_tensor* const* sources, dlb_tensor* const* targets,
                                size_t count, intptr_t stream, const dlb_cuda_options* options,
                                dlb_future** future) noexcept {
  return make_into(future, "future", [&] {
    const StageOptions how = options_of(options);
    Batch from(sources, count, "sources");
    Batch to(targets, count, "targets");
    return new dlb_future(
        stage_async(from.loans, to.loans, stream_beside({&from, &to}, stream), how));
  });
}

// ---- Futures

dlb_status dlb_future_done(const dlb_future* future, int32_t* done) noexcept {
  return guarded([&] { required(done, "done") = future_of(future).done(); });
}

dlb_status dlb_future_wait(const dlb_future* future, double seconds, int32_t* done) noexcept {
  return guarded([&] {
    int32_t& out = required(done, "done");
    out = future_of(future).wait(seconds_of(seconds));
  });
}

dlb_status dlb_future_count(const dlb_future* future, size_t* count) noexcept {
  return guarded([&] { required(count, "count") = future_of(future).size(); });
}

dlb_status dlb_future_result(const dlb_future* future, size_t index, dlb_tensor** result) noexcept {
  return make_into(result, "result", [&] { return make_handle(future_of(future).result(index)); });
}

dlb_status dlb_future_fd(const dlb_future* future, int32_t* fd) noexcept {
  return guarded([&] { required(fd, "fd") = future_of(future).fd(); });
}

dlb_status dlb_future_drop(dlb_future* future) noexcept {
  delete future;
  return DLBRIDGE_OK;
}

// ---- Pinned memory

dlb_status dlb_cuda_pinned_empty(DLDataType dtype, int32_t ndim, const int64_t* shape,
                                 dlb_tensor** result) noexcept {
  return make_into(result, "result", [&] {
    DLTensor prototype{};
    prototype.device = {kDLCPU, 0};
    prototype.dtype = dtype;
    prototype.ndim = ndim;
    prototype.shape = const_cast<int64_t*>(shape);  // DLPack's struct has no const; it is only read
    Loan like;
    read_prototype(prototype, like);
    return make_handle(pinned_empty(like.view()));
  });
}

dlb_status dlb_cuda_pinned_stats(dlb_pinned_stats* stats) noexcept {
  return guarded([&] {
    dlb_pinned_stats& out = sized(stats, "dlb_pinned_stats");
    const PinnedStats found = pinned_stats();
    out.registered = found.registered;
    out.limit = found.limit;
    out.free = found.free;
    out.owned = found.owned;
    out.in_flight = found.in_flight;
    out.quarantined = found.quarantined;
    out.leaked = found.leaked;
    out.hits = found.hits;
    out.misses = found.misses;
    out.grows = found.grows;
    out.refused = found.refused;
    out.register_failed = found.register_failed;
  });
}

dlb_status dlb_cuda_reserve_pinned(size_t bytes) noexcept {
  return guarded([&] { reserve_pinned(bytes); });
}

dlb_status dlb_cuda_set_pinned_limit(size_t bytes) noexcept {
  return guarded([&] { set_pinned_limit(bytes); });
}

dlb_status dlb_cuda_trim_pinned(size_t keep_bytes, size_t* freed) noexcept {
  return guarded([&] {
    const size_t bytes = trim_pinned(keep_bytes);
    if (freed != nullptr) *freed = bytes;
  });
}

dlb_status dlb_cuda_record_stream(const void* address, int32_t device_id, intptr_t stream,
                                  int32_t* held) noexcept {
  return guarded([&] {
    int32_t& out = required(held, "held");
    out = record_stream(address, stream_of(device_id, stream));
  });
}
