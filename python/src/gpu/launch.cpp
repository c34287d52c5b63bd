#include "gpu/launch.h"

#include "convert/convert.h"
#include "dlbridge/layout.h"
#include "gpu/streams.h"
#include "support/errors.h"
#include "tensor/value.h"
#include "torch/gpu.h"

namespace dlbridge::python {
namespace {

// What only the source's own framework can resolve: before its memory means what it says.
constexpr ReasonSet kNeedsFramework = ReasonSet(ErrorCode::conj_bit) | ErrorCode::neg_bit |
                                      ErrorCode::zero_tensor | ErrorCode::copy_on_write |
                                      ErrorCode::byte_order | ErrorCode::stride_not_multiple;

}  // namespace

void open(Source& source, PyObject* x) {
  if (!source.open(x)) throw_pending();
}

void acquire(Source& source) {
  if (!source.acquire()) throw_pending();
}

PyObject* wrapped(const Adapter& target, Loan&& loan) {
  PyObject* object = nullptr;
  check(target.wrap(&loan, &object));
  return object;
}

bool arrives_as_it_is(const TensorView& view, const Adapter& target) {
  Loan staged;
  staged.describe(view);
  dense_strides_like(view, staged.strides());
  TensorView& dense = staged.view();
  dense.data = nullptr;
  dense.device = Device(DeviceType::cpu);
  dense.access = Access::writable;
  return plan(dense, *target.traits, {}).verdict == Verdict::share;
}

void wait_for_stream(const DeviceModule& module, int32_t device, intptr_t stream) {
  PendingStaging* pending = nullptr;
  check(module.reached(device, stream, &pending));
  const Staging reached(module, pending);
  reached.wait();
}

Source& plain(Source& source, Source& made, Reference& holder) {
  if ((source.view().reasons & kNeedsFramework).empty()) return source;
  if (is_torch(source.adapter())) {
    holder = torch_materialized(source.object());
  } else {
    // Host memory that only its framework reads right: as an array of the same framework's.
    const Request copied{.copy = CopyMode::if_needed};
    holder = Reference(convert(source.object(), tensor_adapter(), copied));
    if (!holder) throw_pending();
  }
  open(made, holder.get());
  return made;
}

Staging start_to_host(const DeviceModule& module, Source& source, intptr_t producer,
                      const StagingOptions& options) {
  const int64_t bytes = source.view().nbytes();
  const int32_t device = source.view().device.device_id;
  if (bytes > kSmallBytes && !module.fits_pool(bytes)) wait_for_stream(module, device, producer);
  acquire(source);
  PendingStaging* pending = nullptr;
  without_gil([&] {
    return module.start_to_host(&source.loan(), 1, device, producer, &options, &pending);
  });
  return Staging(module, pending);
}

Staging start_to_host_into(const DeviceModule& module, Source& source, const Adapter& target,
                           PyObject* out, Loan& memory, intptr_t producer,
                           const StagingOptions& options) {
  acquire(source);
  check(target.acquire(out, &memory));
  PendingStaging* pending = nullptr;
  without_gil([&] {
    return module.start_to_host_into(&source.loan(), &memory, producer, &options, &pending);
  });
  return Staging(module, pending);
}

Staging start_to_device(const DeviceModule& module, Source& source, Loan&& target,
                        intptr_t consumer, const StagingOptions& options) {
  const int64_t bytes = target.view().nbytes();
  const int32_t device = target.view().device.device_id;
  if (bytes > 4 * kSmallBytes && !options.borrow && !module.is_pinned(&source.view()))
    wait_for_stream(module, device, consumer);
  acquire(source);
  PendingStaging* pending = nullptr;
  without_gil([&] {
    return module.start_to_device(&source.loan(), &target, consumer, &options, &pending);
  });
  return Staging(module, pending);
}

DeviceTarget allocate_on_device(const DeviceModule& module, const Adapter& target,
                                const TensorView& like, int32_t device,
                                std::optional<intptr_t> stream) {
  DeviceTarget made;
  if (is_torch(target)) {
    const intptr_t current = torch_current_stream(device);
    made.stream = stream ? *stream : current;
    made.object = torch_device_empty(like, like.dtype, device);
    if (made.stream != current && made.stream != kNoStream) {
      // torch's allocator gives memory out in the order of its own stream.
      check(module.order(device, current, made.stream));
      torch_record_stream(made.object.get(), device, made.stream);
    }
    check(target.describe(made.object.get(), &made.memory));
    check(target.acquire(made.object.get(), &made.memory));
    return made;
  }
  if (stream)
    made.stream = *stream;
  else
    check(module.home_stream(device, &made.stream));
  Loan fresh;
  check(module.device_empty(&like, like.dtype, device, made.stream, &fresh));
  fresh.view().is_copied = true;
  made.object = Reference(wrapped(target, std::move(fresh)));
  set_stream(made.object.get(), made.stream);
  check(target.describe(made.object.get(), &made.memory));
  check(target.acquire(made.object.get(), &made.memory));
  return made;
}

}  // namespace dlbridge::python
