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

cuda::StageOptions options_of(const StagingOptions& options) noexcept {
  return {
      .snapshot = options.snapshot, .borrow = options.borrow, .spin_seconds = options.spin_seconds};
}

std::atomic<bool> g_asked{false};  // CUDA has been started, or could not be

Error* unavailable() noexcept {
  return guarded([] {
    g_asked = true;
    cuda::start();  // so that plans, which hold the GIL, ask about devices without calling CUDA
  });
}

Error* describe(std::string* out) noexcept {
  return guarded([out] {
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

Error* start_to_host(Loan* sources, size_t count, int32_t device, intptr_t producer,
                     const StagingOptions* options, PendingStaging** out) noexcept {
  return guarded([&] {
    auto pending = std::make_unique<PendingStaging>();
    pending->future = cuda::stage_to_host_async(std::span(sources, count), on(device, producer),
                                                options_of(*options));
    *out = pending.release();
  });
}

Error* start_to_host_into(Loan* source, Loan* target, intptr_t producer,
                          const StagingOptions* options, PendingStaging** out) noexcept {
  return guarded([&] {
    auto pending = std::make_unique<PendingStaging>();
    const Stream stream = on(source->view().device.device_id, producer);
    pending->future = cuda::stage_to_host_async(std::move(*source), std::move(*target), stream,
                                                options_of(*options));
    *out = pending.release();
  });
}

Error* start_to_device(Loan* source, Loan* target, intptr_t consumer, const StagingOptions* options,
                       PendingStaging** out) noexcept {
  return guarded([&] {
    auto pending = std::make_unique<PendingStaging>();
    const Stream stream = on(target->view().device.device_id, consumer);
    pending->future = cuda::stage_to_device_async(std::move(*source), std::move(*target), stream,
                                                  options_of(*options));
    *out = pending.release();
  });
}

Error* to_host_through_ring(const TensorView* source, const TensorView* out,
                            intptr_t producer) noexcept {
  return guarded(
      [&] { cuda::stage_to_host(*source, *out, on(source->device.device_id, producer)); });
}

Error* copy_on_device(const TensorView* source, const TensorView* target,
                      intptr_t stream) noexcept {
  return guarded([&] {
    StagingBackend* backend = find_staging(source->device, target->device);
    if (backend == nullptr)
      throw Error(ErrorCode::no_staging, "device", "nothing copies on this device");
    backend->copy(*source, *target, on(source->device.device_id, stream));
  });
}

bool fits_pool(int64_t bytes) noexcept {
  bool fits = false;
  delete guarded([&] { fits = cuda::pinned_stats().has_room_for(static_cast<size_t>(bytes)); });
  return fits;
}

bool is_pinned(const TensorView* view) noexcept {
  bool pinned = false;
  delete guarded([&] { pinned = cuda::is_page_locked(*view); });
  return pinned;
}

Error* strategy(const TensorView* source, DLDevice target, std::vector<std::string>* out) noexcept {
  return guarded([&] { *out = cuda::staging_strategy(*source, target); });
}

bool done(const PendingStaging* pending) noexcept { return pending->future.done(); }

bool never_completes(const PendingStaging* pending) noexcept {
  return getpid() != pending->process && !pending->future.done();
}

size_t size(const PendingStaging* pending) noexcept { return pending->future.size(); }

Error* result(const PendingStaging* pending, size_t index, Loan* out) noexcept {
  return guarded([&] { *out = pending->future.result(index); });
}

Error* fd(const PendingStaging* pending, int* out) noexcept {
  return guarded([&] { *out = pending->future.fd(); });
}

void drop(PendingStaging* pending) noexcept { delete pending; }

Error* order(int32_t device, intptr_t earlier, intptr_t later) noexcept {
  return guarded([&] { cuda::order_streams(on(device, earlier), on(device, later)); });
}

Error* reached(int32_t device, intptr_t stream, PendingStaging** out) noexcept {
  return guarded([&] {
    auto pending = std::make_unique<PendingStaging>();
    pending->future = cuda::when_reached(on(device, stream));
    *out = pending.release();
  });
}

Error* import_stream(int32_t device, intptr_t* out) noexcept {
  return guarded([&] { *out = reinterpret_cast<intptr_t>(cuda::import_stream(device).handle); });
}

Error* allocation_stream(int32_t device, intptr_t* out) noexcept {
  return guarded(
      [&] { *out = reinterpret_cast<intptr_t>(cuda::allocation_stream(device).handle); });
}

Error* device_empty(const TensorView* like, DLDataType dtype, int32_t device, intptr_t stream,
                    Loan* out) noexcept {
  return guarded([&] {
    TensorView shape = *like;
    shape.dtype = dtype;
    *out = cuda::device_empty(shape, on(device, stream));
  });
}

bool record_deleter(const Deleter* deleter, int32_t device, intptr_t stream) noexcept {
  bool ours = false;
  delete guarded([&] { ours = cuda::record_device_stream(*deleter, on(device, stream)); });
  return ours;
}

Error* record_pinned(const void* address, int32_t device, intptr_t stream, bool* held) noexcept {
  return guarded([&] { *held = cuda::record_stream(address, on(device, stream)); });
}

Error* pinned_empty(const TensorView* like, Loan* out) noexcept {
  return guarded([&] { *out = cuda::pinned_empty(*like); });
}

Error* pool_statistics(PoolStatistics* out) noexcept {
  return guarded([&] {
    const cuda::PinnedStats stats = cuda::pinned_stats();
    *out = {stats.registered, stats.limit,       stats.free,    stats.owned,
            stats.in_flight,  stats.quarantined, stats.leaked,  stats.hits,
            stats.misses,     stats.grows,       stats.refused, stats.register_failed};
  });
}

Error* set_pool_limit(size_t bytes) noexcept {
  return guarded([&] { cuda::set_pinned_limit(bytes); });
}

Error* reserve_pinned(size_t bytes) noexcept {
  return guarded([&] { cuda::reserve_pinned(bytes); });
}

Error* trim_pinned(size_t keep_bytes, size_t* freed) noexcept {
  return guarded([&] { *freed = cuda::trim_pinned(keep_bytes); });
}

Error* device_of_pointer(const void* address, int32_t* out) noexcept {
  return guarded([&] { *out = cuda::device_of_address(address); });
}

Error* device_of_pinned(const void* address, int32_t* out) noexcept {
  return guarded([&] { *out = cuda::device_of_pinned(address); });
}

bool shares_managed(int32_t device) noexcept {
  bool shares = false;
  delete guarded([&] { shares = cuda::shares_managed_memory(device); });
  return shares;
}

DeviceModule make_module() noexcept {
  DeviceModule module;
  module.in_use = cuda::in_use;
  module.unavailable = unavailable;
  module.describe = describe;
  module.start_to_host = start_to_host;
  module.start_to_host_into = start_to_host_into;
  module.start_to_device = start_to_device;
  module.to_host_through_ring = to_host_through_ring;
  module.copy_on_device = copy_on_device;
  module.fits_pool = fits_pool;
  module.is_pinned = is_pinned;
  module.strategy = strategy;
  module.done = done;
  module.never_completes = never_completes;
  module.size = size;
  module.result = result;
  module.fd = fd;
  module.drop = drop;
  module.order = order;
  module.reached = reached;
  module.import_stream = import_stream;
  module.allocation_stream = allocation_stream;
  module.device_empty = device_empty;
  module.record_deleter = record_deleter;
  module.record_pinned = record_pinned;
  module.pinned_empty = pinned_empty;
  module.pool_statistics = pool_statistics;
  module.set_pool_limit = set_pool_limit;
  module.reserve_pinned = reserve_pinned;
  module.trim_pinned = trim_pinned;
  module.device_of_pointer = device_of_pointer;
  module.device_of_pinned = device_of_pinned;
  module.shares_managed = shares_managed;
  return module;
}

PyModuleDef g_module = {PyModuleDef_HEAD_INIT, "_cuda", "The CUDA module of dlbridge.", -1};

}  // namespace
}  // namespace dlbridge::python

PyMODINIT_FUNC PyInit__cuda() {
  using namespace dlbridge::python;
  static DeviceModule device = make_module();
  return translated([] {
    dlbridge::cuda::register_cuda_staging();
    return new_capsule_module(g_module, "device", &device, kDeviceModuleCapsule);
  });
}
