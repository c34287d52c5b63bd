// SPDX-License-Identifier: Apache-2.0
#include "gpu/convert.h"

#include <algorithm>

#include "bridge/device_module.h"
#include "convert/host.h"
#include "gpu/launch.h"
#include "tensor/value.h"

namespace dlbridge::python {
namespace {

// How long a caller that waits for a small copy polls for its end; then a thread wakes it.
constexpr double kSpinSeconds = 0.001;
constexpr double kLookOnceSeconds = 1e-9;

StagingOptions for_waiting(int64_t bytes) noexcept {
  // The caller waits for the copy, so the producer's stream does not have to.
  return {.snapshot = false, .spin_seconds = bytes <= kSmallBytes ? kSpinSeconds : 0};
}

// To a device a pageable source has been read on return: the caller does not wait for the end, but
// small copies still go to the consumer's stream.
StagingOptions to_device_options(int64_t bytes, bool pinned) noexcept {
  StagingOptions options = for_waiting(bytes);
  if (!pinned) options.spin_seconds = std::min(options.spin_seconds, kLookOnceSeconds);
  return options;
}

Loan to_host(Source& source) {
  const DeviceModule& module = require_device_module();
  const Staging staging =
      start_to_host(module, source, source.stream(), for_waiting(source.view().nbytes()));
  staging.wait();
  return staging.result(0);
}

// A host object over staged memory, of a framework that knows the source's dtype.
Reference host_copy_of(Source& source) {
  const Adapter& own = source.adapter();
  return wrapped(own.fill != nullptr ? own : tensor_adapter(), to_host(source));
}

// The host source of a staging to a device, with the dtype that it arrives with.
void open_for_device(Source& source, const Adapter& target, const Request& request,
                     const Plan& decision, Reference& holder, Source& made) {
  if (!decision.casts && arrives_as_it_is(source.view(), target)) return;
  const Request on_host{.copy = CopyMode::if_needed, .dtype = request.dtype};
  holder = Reference(convert_on_host(source.object(), target, on_host));
  made.open(holder.get());
}

PyObject* to_device(Source& source, const Adapter& target, const Request& request,
                    const Plan& decision) {
  const DeviceModule& module = require_device_module();
  Reference plain_holder;
  Source plain_made;
  Source& plain_source = plain(source, plain_made, plain_holder);
  Reference cast_holder;
  Source cast_made;
  open_for_device(plain_source, target, request, decision, cast_holder, cast_made);
  Source& from = cast_holder ? cast_made : plain_source;
  DeviceTarget made =
      allocate_on_device(module, target, from.view(), request.device->device_id, std::nullopt);
  if (from.view().is_empty()) return made.object.release();
  const bool pinned = module.is_pinned(&from.view());
  const StagingOptions options = to_device_options(from.view().nbytes(), pinned);
  from.acquire();
  const Staging staging =
      start(module, std::move(from.loan()), std::move(made.memory), made.stream, options);
  if (pinned) staging.wait();  // it is read until then; a pageable source was read on return
  if (staging.done()) staging.result(0);  // says what went wrong
  return made.object.release();
}

PyObject* to_host_object(Source& source, const Adapter& target, const Request& request,
                         const Plan& decision) {
  Reference holder;
  Source made;
  Source& from = plain(source, made, holder);
  if (!decision.casts && arrives_as_it_is(from.view(), target))
    return wrapped(target, to_host(from)).release();
  const Reference on_host = host_copy_of(from);
  return convert_on_host(on_host.get(), target,
                         {.copy = CopyMode::if_needed, .dtype = request.dtype});
}

// Casts or repacks staged elements into existing host memory.
void fill_from(PyObject* x, const Adapter& target, const TensorView& memory) {
  Source source;
  source.open(x);
  Request request{.into_existing = true, .dtype = memory.dtype};
  const Plan decision = plan_for(source, target, request);
  if (decision.verdict == Verdict::refuse) throw refusal_of(source, target, request, decision);
  fill_on_host(source, target, decision, memory);
}

}  // namespace

PyObject* convert_by_staging(Source& source, const Adapter& target, const Request& request,
                             const Plan& decision) {
  return Device(*request.device).is_host() ? to_host_object(source, target, request, decision)
                                           : to_device(source, target, request, decision);
}

PyObject* stage_into(Source& source, const Adapter& target, const Plan& decision, PyObject* out,
                     Loan& memory) {
  const DeviceModule& module = require_device_module();
  Reference holder;
  Source made;
  Source& from = plain(source, made, holder);
  if (decision.casts || !arrives_as_it_is(from.view(), target)) {
    const Reference on_host = host_copy_of(from);
    fill_from(on_host.get(), target, memory.view());
    return Py_NewRef(out);
  }
  const intptr_t producer = from.stream();
  const int64_t bytes = from.view().nbytes();
  const bool by_ring = bytes > kSmallBytes && !module.is_pinned(&memory.view());
  // This thread copies through the ring, once there is something to copy.
  if (by_ring) wait_for_stream(module, from.view().device.device_id, producer);
  from.acquire();
  check(target.acquire(out, &memory));
  if (by_ring) {
    check(module.copy(&from.view(), &memory.view(), producer));
    return Py_NewRef(out);
  }
  const Staging staging =
      start(module, std::move(from.loan()), std::move(memory), producer, for_waiting(bytes));
  staging.wait();
  staging.result(0);
  return Py_NewRef(out);
}

PyObject* copy_on_device(Source& source, const Adapter& target) {
  const DeviceModule& module = require_device_module();
  Reference holder;
  Source made;
  Source& from = plain(source, made, holder);
  const DLDevice device = from.view().device;
  const intptr_t earlier = from.stream();
  // Memory of the device module is allocated in the source's own order: then nothing waits.
  const bool in_order = target.device_empty == nullptr && earlier != kNoSync;
  DeviceTarget fresh = allocate_on_device(module, target, from.view(), device.device_id,
                                          in_order ? std::optional(earlier) : std::nullopt);
  check(module.order(device.device_id, earlier, fresh.stream));
  from.acquire();
  check(module.copy(&from.view(), &fresh.memory.view(), fresh.stream));
  // Later writes to the source wait for the copy.
  check(module.order(device.device_id, fresh.stream, earlier));
  return fresh.object.release();
}

void wait_for_host_access(const Source& source) {
  const bool managed = source.managed_by() >= 0;
  const bool foreign_pinned = Device(source.view().device).type() == DeviceType::cuda_host &&
                              source.adapter().traits == &neutral_traits();
  if (!managed && !foreign_pinned) return;
  const DeviceModule* module = usable_device_module();
  if (module == nullptr) return;  // no device runs here
  if (managed) return wait_for_stream(*module, source.managed_by(), source.stream());
  int32_t device = -1;
  check(module->device_of_pinned(source.view().data, &device));
  if (device >= 0) wait_for_stream(*module, device, source.stream());
}

}  // namespace dlbridge::python
