// SPDX-License-Identifier: Apache-2.0
// dlbridge._cuda: puts the CUDA module into a capsule. Loads where there is no driver.
#include <Python.h>
#include <unistd.h>

#include <atomic>
#include <string>

#include "bridge/capsule_module.h"
#include "bridge/device_module.h"
#include "dlbridge/cuda/device_memory.h"
#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/cuda/staging.h"
#include "dlbridge/cuda/stream_order.h"
#include "dlbridge/layout.h"
#include "support/reference.h"

namespace dlbridge::python {

struct PendingStaging {
  cuda::Future future;
  pid_t process = getpid();
};

namespace {

Stream on(int32_t device, intptr_t stream) noexcept { return cuda::stream_of(device, stream); }

int32_t device_of(const TensorView& source, const TensorView& target) noexcept {
  return (Device(source.device).is_host() ? target : source).device.device_id;
}

cuda::StageOptions options_of(const StagingOptions& options) noexcept {
  return {
      .snapshot = options.snapshot, .borrow = options.borrow, .spin_seconds = options.spin_seconds};
}

std::atomic<bool> g_asked{false};  // CUDA has been started, or could not be

Error* unavailable() noexcept {
  return guarded_without_gil([] {
    g_asked = true;
    cuda::start();  // so that plans, which hold the GIL, ask about devices without calling CUDA
  });
}

Error* describe(std::string* out) noexcept {
  return guarded_without_gil([out] {
    const cuda::Availability found = g_asked ? cuda::availability() : cuda::driver_presence();
    *out = "for CUDA " + cuda::version_text(found.runtime_version) + " or later, ";
    if (!found.usable) {
      *out += found.message;
      return;
    }
    *out += "driver for CUDA " + cuda::version_text(found.driver_version) + ", ";
    if (found.device_count == 0)
      *out += "not started: its devices are counted at the first use";
    else
      *out +=
          std::to_string(found.device_count) + (found.device_count == 1 ? " device" : " devices");
  });
}

DeviceModule g_device = {
    .in_use = cuda::in_use,
    .unavailable = unavailable,
    .describe = describe,
    .start_to_host =
        [](Loan* sources, size_t count, int32_t device, intptr_t producer,
           const StagingOptions* options, PendingStaging** out) noexcept {
          return guarded_without_gil([&] {
            *out = new PendingStaging{cuda::stage_to_host_async(
                std::span(sources, count), on(device, producer), options_of(*options))};
          });
        },
    .start =
        [](Loan* source, Loan* target, intptr_t stream, const StagingOptions* options,
           PendingStaging** out) noexcept {
          return guarded_without_gil([&] {
            const Stream beside = on(device_of(source->view(), target->view()), stream);
            *out = new PendingStaging{cuda::stage_async(std::move(*source), std::move(*target),
                                                        beside, options_of(*options))};
          });
        },
    .copy =
        [](const TensorView* source, const TensorView* target, intptr_t stream) noexcept {
          return guarded_without_gil(
              [&] { cuda::stage(*source, *target, on(device_of(*source, *target), stream)); });
        },
    .fits_pool =
        [](int64_t bytes) noexcept {
          bool fits = false;
          delete guarded_without_gil(
              [&] { fits = cuda::pinned_stats().has_room_for(static_cast<size_t>(bytes)); });
          return fits;
        },
    .is_pinned =
        [](const TensorView* view) noexcept {
          bool pinned = false;
          delete guarded_without_gil([&] { pinned = cuda::is_page_locked(*view); });
          return pinned;
        },
    .strategy =
        [](const TensorView* source, DLDevice target, std::vector<std::string>* out) noexcept {
          return guarded_without_gil([&] { *out = cuda::staging_strategy(*source, target); });
        },
    .done = [](const PendingStaging* pending) noexcept { return pending->future.done(); },
    .never_completes =
        [](const PendingStaging* pending) noexcept {
          return getpid() != pending->process && !pending->future.done();
        },
    .size = [](const PendingStaging* pending) noexcept { return pending->future.size(); },
    .result =
        [](const PendingStaging* pending, size_t index, Loan* out) noexcept {
          return guarded_without_gil([&] {
            *out = pending->future.result(index);
            call_deleter_without_gil(*out);
          });
        },
    .fd = [](const PendingStaging* pending,
             int* out) noexcept { return guarded([&] { *out = pending->future.fd(); }); },
    .drop = [](PendingStaging* pending) noexcept { without_gil([=] { delete pending; }); },
    .order =
        [](int32_t device, intptr_t earlier, intptr_t later) noexcept {
          return guarded_without_gil(
              [&] { cuda::order_streams(on(device, earlier), on(device, later)); });
        },
    .reached =
        [](int32_t device, intptr_t stream, PendingStaging** out) noexcept {
          return guarded_without_gil(
              [&] { *out = new PendingStaging{cuda::when_reached(on(device, stream))}; });
        },
    .import_stream =
        [](int32_t device, intptr_t* out) noexcept {
          return guarded_without_gil(
              [&] { *out = reinterpret_cast<intptr_t>(cuda::import_stream(device).handle); });
        },
    .allocation_stream =
        [](int32_t device, intptr_t* out) noexcept {
          return guarded_without_gil(
              [&] { *out = reinterpret_cast<intptr_t>(cuda::allocation_stream(device).handle); });
        },
    .device_empty =
        [](const TensorView* like, DLDataType dtype, int32_t device, intptr_t stream,
           Loan* out) noexcept {
          return guarded_without_gil([&] {
            TensorView shape = *like;
            shape.dtype = dtype;
            *out = cuda::device_empty(shape, on(device, stream));
            call_deleter_without_gil(*out);
          });
        },
    .record_deleter =
        [](const Deleter* deleter, int32_t device, intptr_t stream) noexcept {
          bool ours = false;
          delete guarded([&] { ours = cuda::record_device_stream(*deleter, on(device, stream)); });
          return ours;
        },
    .record_pinned =
        [](const void* address, int32_t device, intptr_t stream, bool* held) noexcept {
          return guarded_without_gil(
              [&] { *held = cuda::record_stream(address, on(device, stream)); });
        },
    .pinned_empty =
        [](const TensorView* like, Loan* out) noexcept {
          return guarded_without_gil([&] {
            *out = cuda::pinned_empty(*like);
            call_deleter_without_gil(*out);
          });
        },
    .pool_statistics =
        [](PoolStatistics* out) noexcept {
          return guarded_without_gil([&] {
            const cuda::PinnedStats stats = cuda::pinned_stats();
            *out = {stats.registered, stats.limit,       stats.free,    stats.owned,
                    stats.in_flight,  stats.quarantined, stats.leaked,  stats.hits,
                    stats.misses,     stats.grows,       stats.refused, stats.register_failed};
          });
        },
    .set_pool_limit =
        [](size_t bytes) noexcept {
          return guarded_without_gil([&] { cuda::set_pinned_limit(bytes); });
        },
    .reserve_pinned =
        [](size_t bytes) noexcept {
          return guarded_without_gil([&] { cuda::reserve_pinned(bytes); });
        },
    .trim_pinned =
        [](size_t keep_bytes, size_t* freed) noexcept {
          return guarded_without_gil([&] { *freed = cuda::trim_pinned(keep_bytes); });
        },
    .device_of_pointer =
        [](const void* address, int32_t* out) noexcept {
          return guarded_without_gil([&] { *out = cuda::device_of_address(address); });
        },
    .device_of_pinned =
        [](const void* address, int32_t* out) noexcept {
          return guarded_without_gil([&] { *out = cuda::device_of_pinned(address); });
        },
    .shares_managed =
        [](int32_t device) noexcept {
          bool shares = false;
          delete guarded_without_gil([&] { shares = cuda::shares_managed_memory(device); });
          return shares;
        },
};

PyModuleDef g_module = {PyModuleDef_HEAD_INIT, "_cuda", "The CUDA module of dlbridge.", -1};

}  // namespace
}  // namespace dlbridge::python

PyMODINIT_FUNC PyInit__cuda() {
  using namespace dlbridge::python;
  return translated([] {
    dlbridge::cuda::register_cuda_staging();
    return new_capsule_module(g_module, "device", &g_device, kDeviceModuleCapsule);
  });
}
