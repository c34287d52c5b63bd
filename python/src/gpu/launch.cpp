// SPDX-License-Identifier: Apache-2.0
#include "gpu/launch.h"

#include "bridge/device_module.h"
#include "convert/host.h"
#include "dlbridge/copy.h"
#include "tensor/value.h"

namespace dlbridge::python {

Reference wrapped(const Adapter& target, Loan&& loan) {
  PyObject* object = nullptr;
  check(target.wrap(&loan, &object));
  return Reference(object);
}

bool arrives_as_it_is(const TensorView& view, const Adapter& target) {
  return plan(dense_like(view).view(), *target.traits, {}).verdict == Verdict::share;
}

void wait_for_stream(const DeviceModule& module, int32_t device, intptr_t stream) {
  Staging(module, module.reached, device, stream).wait();
}

Source& plain(Source& source, Source& made, Reference& holder) {
  if (!source.needs_framework()) return source;
  if (const Adapter& own = source.adapter(); own.materialize != nullptr) {
    PyObject* object = nullptr;
    check(own.materialize(source.object(), &object));
    holder = Reference(object);
  } else {
    const Request copied{.copy = CopyMode::if_needed};
    holder = Reference(convert_on_host(source.object(), tensor_adapter(), copied));
  }
  made.open(holder.get());
  return made;
}

Staging start_to_host(const DeviceModule& module, Source& source, intptr_t producer,
                      const StagingOptions& options) {
  const int64_t bytes = source.view().nbytes();
  const int32_t device = source.view().device.device_id;
  if (bytes > kSmallBytes && !module.fits_pool(bytes)) wait_for_stream(module, device, producer);
  source.acquire();
  return Staging(module, module.start_to_host, &source.loan(), size_t{1}, device, producer,
                 &options);
}

Staging start(const DeviceModule& module, Loan&& source, Loan&& target, intptr_t stream,
              const StagingOptions& options) {
  if (const Device device(target.view().device); !device.is_host()) {
    const bool is_large = target.view().nbytes() > 4 * kSmallBytes;
    if (is_large && !options.borrow && !module.is_pinned(&source.view()))
      wait_for_stream(module, device.id(), stream);
  }
  return Staging(module, module.start, &source, &target, stream, &options);
}

DeviceTarget allocate_on_device(const DeviceModule& module, const Adapter& target,
                                const TensorView& like, int32_t device,
                                std::optional<intptr_t> stream) {
  DeviceTarget made;
  if (target.device_empty != nullptr) {
    intptr_t current = 0;
    check(target.current_stream(nullptr, device, &current));
    made.stream = stream ? *stream : current;
    PyObject* object = nullptr;
    check(target.device_empty(&like, like.dtype, device, &object));
    made.object = Reference(object);
    if (made.stream != current && made.stream != kNoSync) {
      // The framework's allocator gives memory out in the order of its own stream.
      check(module.order(device, current, made.stream));
      check(target.record_stream(made.object.get(), device, made.stream));
    }
  } else {
    if (stream)
      made.stream = *stream;
    else
      check(module.allocation_stream(device, &made.stream));
    Loan fresh;
    check(module.device_empty(&like, like.dtype, device, made.stream, &fresh));
    fresh.view().is_copied = true;
    made.object = wrapped(target, std::move(fresh));
    if (target.set_stream != nullptr) target.set_stream(made.object.get(), made.stream);
  }
  check(target.describe(made.object.get(), &made.memory));
  check(target.acquire(made.object.get(), &made.memory));
  return made;
}

}  // namespace dlbridge::python
