#include "staging.h"

#include <algorithm>
#include <memory>
#include <string>

#include "convert.h"
#include "dlbridge/layout.h"
#include "dlbridge/transfer.h"
#include "errors.h"
#include "registry.h"
#include "streams.h"
#include "tensor.h"
#include "torch_gpu.h"

namespace dlbridge::python {
namespace {

// Up to here a copy is over before a thread has slept: the caller watches for its end.
constexpr int64_t kSmallBytes = 64 * 1024;
constexpr double kLingerSeconds = 0.001;
constexpr double kLookOnceSeconds = 1e-9;

// What only the source's own framework can resolve: before its memory means what it says.
constexpr ReasonSet kNeedsFramework = ReasonSet(ErrorCode::conj_bit) | ErrorCode::neg_bit |
                                      ErrorCode::zero_tensor | ErrorCode::copy_on_write |
                                      ErrorCode::byte_order | ErrorCode::stride_not_multiple;

void check(Error* error) {
  if (error != nullptr) throw Error(*Failure(error));
}

[[noreturn]] void throw_pending() {
  throw Error(ErrorCode::python_exception, "", "a Python exception is set");
}

const Adapter& named(const char* name) {
  const Adapter* adapter = adapter_named(name);
  if (adapter == nullptr) throw_pending();
  return *adapter;
}

const Adapter& named_or_tensor(const std::string& name) {
  return name == "dlpack" ? tensor_adapter() : named(name.c_str());
}

PyObject* wrapped(const Adapter& target, Loan&& loan) {
  PyObject* object = nullptr;
  check(target.wrap(&loan, &object));
  return object;
}

void open(Source& source, PyObject* x) {
  if (!source.open(x)) throw_pending();
}

void lend(Source& source) {
  if (!source.lend()) throw_pending();
}

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

// Waits until the stream has come to where it is now, so that what works on this thread afterwards
// does not wait for others' work, deaf to signals.
void wait_for_stream(const DeviceModule& module, int32_t device, intptr_t stream) {
  PendingStaging* pending = nullptr;
  check(module.reached(device, stream, &pending));
  const Staging reached(module, pending);
  reached.wait();
}

// A source whose memory holds its elements as they are: `x`, or what its framework made of it.
// `holder` keeps that alive.
Source& plain(Source& source, Source& made, Reference& holder) {
  if ((source.view().obstacles & kNeedsFramework).empty()) return source;
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

// ---- to the host

Staging start_to_host(const DeviceModule& module, Source& source, intptr_t producer,
                      const StagingOptions& options) {
  const int64_t bytes = source.view().nbytes();
  const int32_t device = source.view().device.device_id;
  if (bytes > kSmallBytes && !module.fits_pool(bytes)) wait_for_stream(module, device, producer);
  lend(source);
  PendingStaging* pending = nullptr;
  without_gil([&] {
    return module.start_to_host(&source.loan(), 1, device, producer, &options, &pending);
  });
  return Staging(module, pending);
}

Staging start_to_host_into(const DeviceModule& module, Source& source, const Adapter& target,
                           PyObject* out, Loan& memory, intptr_t producer,
                           const StagingOptions& options) {
  lend(source);
  check(target.lend(out, &memory));
  PendingStaging* pending = nullptr;
  without_gil([&] {
    return module.start_to_host_into(&source.loan(), &memory, producer, &options, &pending);
  });
  return Staging(module, pending);
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

// ---- to a device

// The host source of a staging to a device, with the dtype that it is to arrive in.
void open_for_device(Source& source, const Adapter& target, const Request& request,
                     const Plan& plan, Reference& holder, Source& made) {
  if (!plan.casts && !plan.reasons.has(ErrorCode::float4_packing)) return;
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

Staging start_to_device(const DeviceModule& module, Source& source, Loan&& target,
                        intptr_t consumer, const StagingOptions& options) {
  const int64_t bytes = target.view().nbytes();
  const int32_t device = target.view().device.device_id;
  if (bytes > 4 * kSmallBytes && !options.borrow && !module.is_pinned(&source.view()))
    wait_for_stream(module, device, consumer);
  lend(source);
  PendingStaging* pending = nullptr;
  without_gil([&] {
    return module.start_to_device(&source.loan(), &target, consumer, &options, &pending);
  });
  return Staging(module, pending);
}

// Fresh memory on a device: an object of `target`'s, its memory lent, and the stream in whose order
// it may be used.
struct DeviceTarget {
  Reference object;
  Loan memory;
  intptr_t stream;
};

DeviceTarget allocate(const DeviceModule& module, const Adapter& target, const TensorView& like,
                      int32_t device, std::optional<intptr_t> stream) {
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
    check(target.lend(made.object.get(), &made.memory));
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
  check(target.lend(made.object.get(), &made.memory));
  return made;
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
      allocate(module, target, from.view(), request.device->device_id, std::nullopt);
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
  if (!plan.casts && !plan.reasons.has(ErrorCode::float4_packing))
    return wrapped(target, to_host(from));
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
    if (plan.casts || plan.reasons.has(ErrorCode::float4_packing)) {
      const Reference on_host = host_copy_of(from);
      return convert_into(on_host.get(), target, {}, out);
    }
    const intptr_t producer = stream_of(from);
    const int64_t bytes = from.view().nbytes();
    if (bytes > kSmallBytes && !module.is_pinned(&memory.view())) {
      // The ring is worked by this thread, once there is something to copy.
      wait_for_stream(module, from.view().device.device_id, producer);
      lend(from);
      check(target.lend(out, &memory));
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
    DeviceTarget fresh = allocate(module, target, from.view(), device.device_id,
                                  in_order ? std::optional(earlier) : std::nullopt);
    check(module.order(device.device_id, earlier, fresh.stream));
    Transfer* transfer = find_transfer(device, device);
    if (transfer == nullptr)
      throw Error(ErrorCode::no_transfer, "device", "no transfer copies on this device");
    const Stream stream{device, reinterpret_cast<void*>(fresh.stream)};
    lend(from);
    without_gil(
        [&] { return guarded([&] { transfer->copy(from.view(), fresh.memory.view(), stream); }); });
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

namespace {

// The stream that a staging comes behind: the one that was named, put behind the source's own.
intptr_t producer_stream(const DeviceModule& module, const Source& source,
                         std::optional<intptr_t> named) {
  if (!named) return stream_of(source);
  if (*named != kNoStream && !is_torch(source.adapter()) && !source.view().is_empty())
    check(module.order(source.view().device.device_id, stream_of(source), *named));
  return *named;
}

}  // namespace

StartedStaging start_staging(PyObject* x, const StagingRequest& request) {
  Source opened;
  if (request.stream) opened.prefer_stream(*request.stream);
  open(opened, x);
  Reference holder;
  Source made;
  std::optional<DLDevice> device = request.device;
  Loan out_memory;
  const Adapter* target = request.target;
  if (request.out != nullptr) {
    target = adapter_for(request.out);
    if (target == nullptr) {
      if (!PyErr_Occurred())
        raise_type_error(
            "out is %.200s; expected a numpy.ndarray, a torch.Tensor or a "
            "dlbridge.Tensor",
            Py_TYPE(request.out)->tp_name);
      throw_pending();
    }
    check(target->describe(request.out, &out_memory));
    if (device && !Device::same_place(*device, out_memory.view().device)) {
      throw Error(ErrorCode::invalid_device, "device",
                  "device is " + Device(*device).name() + ", but out is on " +
                      Device(out_memory.view().device).name() + ": leave device out");
    }
    device = out_memory.view().device;
  }
  if (!device) {
    throw Error(ErrorCode::device_not_named, "device",
                "neither device= nor out= was given: pass device=\"cpu\" or device=\"cuda:0\"");
  }
  if (target == nullptr)
    target = &named_or_tensor(Device(*device).is_host() ? "numpy"
                              : torch_can_allocate()    ? "torch"
                                                        : "dlpack");
  const DeviceModule& module = require_device_module();
  Request asked{.into_existing = request.out != nullptr, .device = device};
  if (request.out != nullptr) asked.dtype = out_memory.view().dtype;
  const Plan plan = plan_for(opened, *target, asked);
  if (plan.verdict == Verdict::refuse) throw refusal_of(opened, *target, asked, plan);
  if (!plan.stages) {
    throw Error(ErrorCode::invalid_device, "device",
                "x is on " + Device(opened.view().device).name() +
                    " already: nothing is to be staged; share it with to_numpy(x), to_torch(x) or "
                    "from_dlpack(x)");
  }
  if (plan.casts || plan.reasons.has(ErrorCode::float4_packing)) {
    throw Error(ErrorCode::unsupported_dtype, "dtype",
                "dtype is " + DType(opened.view().dtype).name() + ", out's is " +
                    DType(out_memory.view().dtype).name() +
                    ": stage() does not cast; pass an out of the same dtype");
  }
  Source& source = plain(opened, made, holder);
  StartedStaging started;
  started.target = target;
  if (Device(*device).is_host()) {
    const intptr_t producer = producer_stream(module, source, request.stream);
    if (request.out == nullptr) {
      started.staging = start_to_host(module, source, producer, request.options);
    } else {
      started.staging = start_to_host_into(module, source, *target, request.out, out_memory,
                                           producer, request.options);
      started.object = Reference(Py_NewRef(request.out));
    }
    return started;
  }
  if (request.out != nullptr) {
    Source onto;
    open(onto, request.out);
    const intptr_t consumer = producer_stream(module, onto, request.stream);
    if (consumer != kNoStream) set_stream(request.out, consumer);
    check(target->lend(request.out, &out_memory));
    started.staging =
        start_to_device(module, source, std::move(out_memory), consumer, request.options);
    started.object = Reference(Py_NewRef(request.out));
    return started;
  }
  DeviceTarget fresh = allocate(module, *target, source.view(), device->device_id, request.stream);
  started.object = std::move(fresh.object);
  started.staging =
      start_to_device(module, source, std::move(fresh.memory), fresh.stream, request.options);
  return started;
}

std::vector<StartedGroup> start_stagings(PyObject* sequence, std::optional<intptr_t> stream,
                                         const StagingOptions& options) {
  const Reference items(PySequence_Fast(sequence, "xs is no sequence of tensors"));
  if (!items) throw_pending();
  const auto count = static_cast<size_t>(PySequence_Fast_GET_SIZE(items.get()));
  const DeviceModule& module = require_device_module();
  const Adapter& numpy = named("numpy");

  struct Opened {
    Source source;
    Source made;
    Reference holder;
    Source* from = nullptr;
  };
  std::vector<std::unique_ptr<Opened>> all;
  struct Place {
    int32_t device;
    intptr_t stream;
    bool operator==(const Place&) const = default;
  };
  std::vector<Place> places;
  Source::CommonStream common;
  for (size_t i = 0; i < count; ++i) {
    all.push_back(std::make_unique<Opened>());
    Opened& one = *all.back();
    if (stream) one.source.prefer_stream(*stream);
    one.source.share_stream(common);
    open(one.source, PySequence_Fast_GET_ITEM(items.get(), static_cast<Py_ssize_t>(i)));
    Request asked{.device = Device(DeviceType::cpu)};
    const Plan plan = plan_for(one.source, numpy, asked);
    if (plan.verdict == Verdict::refuse) throw refusal_of(one.source, numpy, asked, plan);
    if (!plan.stages) {
      throw Error(ErrorCode::invalid_device, "device",
                  "xs[" + std::to_string(i) + "] is in host memory already: leave it out");
    }
    one.from = &plain(one.source, one.made, one.holder);
    places.push_back(
        {one.from->view().device.device_id, producer_stream(module, *one.from, stream)});
  }
  std::vector<StartedGroup> groups;
  std::vector<bool> taken(count, false);
  for (size_t first = 0; first < count; ++first) {
    if (taken[first]) continue;
    StartedGroup group;
    std::vector<Loan> loans;
    for (size_t i = first; i < count; ++i) {
      if (taken[i] || !(places[i] == places[first])) continue;
      taken[i] = true;
      lend(*all[i]->from);
      loans.push_back(std::move(all[i]->from->loan()));
      group.indices.push_back(i);
    }
    PendingStaging* pending = nullptr;
    without_gil([&] {
      return module.start_to_host(loans.data(), loans.size(), places[first].device,
                                  places[first].stream, &options, &pending);
    });
    group.staging = Staging(module, pending);
    groups.push_back(std::move(group));
  }
  return groups;
}

}  // namespace dlbridge::python
