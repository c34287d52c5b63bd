#include "gpu/convert.h"

#include <algorithm>

#include "convert/convert.h"
#include "dlbridge/staging_backend.h"
#include "gpu/launch.h"
#include "gpu/streams.h"
#include "support/errors.h"
#include "tensor/value.h"
#include "torch/gpu.h"

namespace dlbridge::python {
namespace {

// Whoever waits for a small copy watches for its end so long; then a thread wakes it.
constexpr double kLingerSeconds = 0.001;
constexpr double kLookOnceSeconds = 1e-9;

StagingOptions for_waiting(int64_t bytes) noexcept {
  // Its caller waits for the copy, so nothing on the producer's stream has to.
  return {.snapshot = false, .linger = bytes <= kSmallBytes ? kLingerSeconds : 0};
}

// To a device a pageable source has been read on return: nobody waits for the end, and small copies
// are to take the consumer's stream all the same.
StagingOptions for_sending(int64_t bytes, bool pinned) noexcept {
  StagingOptions options = for_waiting(bytes);
  if (!pinned) options.linger = std::min(options.linger, kLookOnceSeconds);
  return options;
}

Loan to_host(Source& source) {
  const DeviceModule& module = require_device_module();
  const Staging staging =
      start_to_host(module, source, stream_of(source), for_waiting(source.view().nbytes()));
  staging.wait();
  return staging.result(0);
}

// A host object over staged memory, of the framework that knows the source's dtype.
Reference host_copy_of(Source& source) {
  const bool torch = is_torch(source.adapter());
  const Adapter& own = torch ? source.adapter() : tensor_adapter();
  return Reference(wrapped(own, to_host(source)));
}

// The host source of a staging to a device, with the dtype that it is to arrive in.
void open_for_device(Source& source, const Adapter& target, const Request& request,
                     const Plan& plan, Reference& holder, Source& made) {
  if (!plan.casts && arrives_as_it_is(source.view(), target)) return;
  const Request on_host{.copy = CopyMode::if_needed, .dtype = request.dtype};
  holder = Reference(convert(source.object(), target, on_host));
  if (!holder) throw_pending();
  open(made, holder.get());
}

// A pinned source is read until the copy is done; a pageable one was read on return.
void finish_to_device(const Staging& staging, bool pinned) {
  if (pinned) staging.wait();
  if (staging.done()) staging.result(0);  // says what went wrong
}

PyObject* to_device(Source& source, const Adapter& target, const Request& request,
                    const Plan& plan) {
  const DeviceModule& module = require_device_module();
  Reference plain_holder;
  Source plain_made;
  Source& plain_source = plain(source, plain_made, plain_holder);
  Reference cast_holder;
  Source cast_made;
  open_for_device(plain_source, target, request, plan, cast_holder, cast_made);
  Source& from = cast_holder ? cast_made : plain_source;
  DeviceTarget made =
      allocate_on_device(module, target, from.view(), request.device->device_id, std::nullopt);
  if (from.view().is_empty()) return made.object.release();
  const bool pinned = module.is_pinned(&from.view());
  const Staging staging = start_to_device(module, from, std::move(made.memory), made.stream,
                                          for_sending(from.view().nbytes(), pinned));
  finish_to_device(staging, pinned);
  return made.object.release();
}

PyObject* to_host_object(Source& source, const Adapter& target, const Request& request,
                         const Plan& plan) {
  Reference holder;
  Source made;
  Source& from = plain(source, made, holder);
  if (!plan.casts && arrives_as_it_is(from.view(), target)) return wrapped(target, to_host(from));
  const Reference on_host = host_copy_of(from);
  const Request cast{.copy = CopyMode::if_needed, .dtype = request.dtype};
  return convert(on_host.get(), target, cast);
}

// Runs `body`, which returns a new reference and may throw.
template <typename Body>
PyObject* caught(Body&& body) noexcept {
  PyObject* result = nullptr;
  if (Error* error = guarded([&] { result = body(); })) return raise(error);
  return result;
}

}  // namespace

PyObject* convert_by_staging(Source& source, const Adapter& target, const Request& request,
                             const Plan& plan) noexcept {
  return caught([&] {
    return Device(*request.device).is_host() ? to_host_object(source, target, request, plan)
                                             : to_device(source, target, request, plan);
  });
}

PyObject* stage_into(Source& source, const Adapter& target, const Plan& plan, PyObject* out,
                     Loan& memory) noexcept {
  return caught([&]() -> PyObject* {
    const DeviceModule& module = require_device_module();
    Reference holder;
    Source made;
    Source& from = plain(source, made, holder);
    if (plan.casts || !arrives_as_it_is(from.view(), target)) {
      const Reference on_host = host_copy_of(from);
      return convert_into(on_host.get(), target, {}, out);
    }
    const intptr_t producer = stream_of(from);
    const int64_t bytes = from.view().nbytes();
    if (bytes > kSmallBytes && !module.is_pinned(&memory.view())) {
      // The ring is worked by this thread, once there is something to copy.
      wait_for_stream(module, from.view().device.device_id, producer);
      acquire(from);
      check(target.acquire(out, &memory));
      without_gil(
          [&] { return module.to_host_through_ring(&from.view(), &memory.view(), producer); });
      return Py_NewRef(out);
    }
    const Staging staging =
        start_to_host_into(module, from, target, out, memory, producer, for_waiting(bytes));
    staging.wait();
    staging.result(0);
    return Py_NewRef(out);
  });
}

PyObject* copy_on_device(Source& source, const Adapter& target) noexcept {
  return caught([&] {
    const DeviceModule& module = require_device_module();
    Reference holder;
    Source made;
    Source& from = plain(source, made, holder);
    const DLDevice device = from.view().device;
    const intptr_t earlier = stream_of(from);
    // Memory of ours is made in the source's own order: nothing else has to wait then.
    const bool in_order = !is_torch(target) && earlier != kNoStream;
    DeviceTarget fresh = allocate_on_device(module, target, from.view(), device.device_id,
                                            in_order ? std::optional(earlier) : std::nullopt);
    check(module.order(device.device_id, earlier, fresh.stream));
    StagingBackend* backend = find_staging(device, device);
    if (backend == nullptr)
      throw Error(ErrorCode::no_staging, "device", "nothing copies on this device");
    const Stream stream{device, reinterpret_cast<void*>(fresh.stream)};
    acquire(from);
    without_gil(
        [&] { return guarded([&] { backend->copy(from.view(), fresh.memory.view(), stream); }); });
    // What is written to the source next does not reach the copy.
    check(module.order(device.device_id, fresh.stream, earlier));
    return fresh.object.release();
  });
}

void wait_for_host_access(const Source& source) {
  const bool managed = source.managed_by() >= 0;
  const bool foreign_pinned = Device(source.view().device).type() == DeviceType::cuda_host &&
                              source.adapter().traits == &neutral_traits();
  if (!managed && !foreign_pinned) return;
  const DeviceModule* module = usable_device_module();
  if (module == nullptr) return;  // nothing runs here
  if (managed) return wait_for_stream(*module, source.managed_by(), stream_of(source));
  try {
    wait_for_stream(*module, 0, stream_of(source));
  } catch (const Error& error) {
    // A device that nobody has used writes to no memory.
    if (error.code() != ErrorCode::invalid_device) throw;
  }
}

}  // namespace dlbridge::python
