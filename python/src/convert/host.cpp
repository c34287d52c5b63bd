// SPDX-License-Identifier: Apache-2.0
#include "convert/host.h"

#include <algorithm>

#include "bridge/device_module.h"
#include "bridge/registry.h"
#include "dlbridge/copy.h"
#include "dlbridge/layout.h"
#include "sources/capsule.h"

namespace dlbridge::python {
namespace {

// A copy below this size ends before another thread could take the GIL.
constexpr int64_t kReleaseGilBytes = 512 * 1024;

constexpr int kFewestThreadsToCast = 4;

// Runs core's copies, without the GIL where that pays.
template <typename Copy>
void run_copy(int64_t bytes, Copy&& copy) {
  PyThreadState* state = bytes >= kReleaseGilBytes ? PyEval_SaveThread() : nullptr;
  Error* error = guarded(copy);
  if (state != nullptr) parked_at_exit([&] { PyEval_RestoreThread(state); });
  check(error);
}

// Returns true if the framework of `adapter` can read this memory as it is, read-only or not.
bool can_read(const Adapter& adapter, const TensorView& view) noexcept {
  TensorView readable = view;
  readable.access = Access::read_only;
  readable.reasons = {};
  TargetTraits traits = *adapter.traits;
  traits.read_only = true;
  return plan(readable, traits, {}).verdict == Verdict::share;
}

// Returns true if a cast to `to` keeps the real part of complex numbers alone.
bool drops_imaginary(DType from, DType to) noexcept {
  return from.code() == TypeCode::complex && to.code() != TypeCode::complex &&
         to.code() != TypeCode::boolean;
}

// Raises NumPy's ComplexWarning, which a filter may make an error: before anything is cast.
void warn_of_dropped_imaginary() {
  const Reference category = python_attribute("numpy.exceptions", "ComplexWarning");
  if (PyErr_WarnEx(category.get(), "Casting complex values to real discards the imaginary part",
                   1) < 0)
    throw_pending();
}

// Describes the real parts of complex numbers.
Loan real_part_of(const TensorView& view) {
  Loan real;
  real.describe(view);
  for (int32_t i = 0; i < view.ndim; ++i) real.strides()[i] *= 2;
  real.view().dtype = DType(TypeCode::float_, DType(view.dtype).bits() / 2);
  return real;
}

// Casts into `dst` where core can; returns false if it cannot.
bool cast_by_core(const TensorView& view, const TensorView& dst) {
  bool done = false;
  run_copy(dst.nbytes(), [&] { done = cast_host(view, dst); });
  return done;
}

// Casts into `dst` by the framework of `target`, after a plain copy where it cannot read the
// memory.
void cast_by_target(const TensorView& view, const Adapter& target, const TensorView& dst) {
  if (can_read(target, view)) return check(target.cast(&view, &dst));
  Loan plain = allocate_like(view);
  copy_elements(view, plain.view(), true);
  check(target.cast(&plain.view(), &dst));
}

// Casts into `dst`: core where it can, else the framework that casts on several threads if there
// are enough of them, else the other.
void cast_into(const Source& source, const Adapter& target, const TensorView& dst) {
  if (drops_imaginary(source.view().dtype, dst.dtype)) {
    warn_of_dropped_imaginary();
    if (!source.needs_framework() && target.cast != nullptr) {
      const Loan real = real_part_of(source.view());
      if (!cast_by_core(real.view(), dst)) cast_by_target(real.view(), target, dst);
      return;
    }
  }
  if (!source.needs_framework() && cast_by_core(source.view(), dst)) return;
  const Adapter& own = source.adapter();
  const bool target_can = target.cast != nullptr && target.traits->dtypes.contains(dst.dtype);
  const bool source_can = own.fill != nullptr && own.traits->dtypes.contains(dst.dtype);
  const bool target_reads =
      target_can && !source.needs_framework() && can_read(target, source.view());
  // What core leaves to them, a single thread casts faster than a few, which wait for each other.
  const bool threads = num_threads() >= kFewestThreadsToCast;
  if (target_reads && (target.threaded_casts == threads || !source_can))
    return check(target.cast(&source.view(), &dst));
  if (source_can) return check(own.fill(source.object(), &dst));

  // Neither does it at once: a plain copy first.
  if (!source.needs_framework()) return cast_by_target(source.view(), target, dst);
  Loan plain = allocate_like(source.view());
  check(own.fill(source.object(), &plain.view()));
  check(target.cast(&plain.view(), &dst));
}

// Returns true if the framework has the dtype, perhaps in a package that is loaded here.
bool can_hold(const Adapter& adapter, DLDataType dtype) noexcept {
  if (adapter.traits->dtypes.contains(dtype)) return true;
  return adapter.traits->dtypes_missing.contains(dtype) && adapter.extend != nullptr &&
         adapter.extend() && adapter.traits->dtypes.contains(dtype);
}

// The adapter that casts to `dtype` in the place of `target`'s. Frameworks differ in what becomes
// of a value that a float8 cannot hold: the source's own casts to float8 for every target, NumPy
// where the source has none.
const Adapter& caster_for(const Source& source, const Adapter& target, DType dtype) {
  const bool float8 =
      dtype.code() >= TypeCode::float8_e3m4 && dtype.code() <= TypeCode::float8_e8m0fnu;
  if (!float8) return target;
  const Adapter& own = source.adapter();
  const Adapter& caster = own.fill != nullptr ? own : adapter_named("numpy");
  return can_hold(caster, dtype) ? caster : target;
}

void fill(const Source& source, const Adapter& target, const Plan& decision, const TensorView& dst,
          bool fresh) {
  if (decision.reasons.has(ErrorCode::float4_packing))
    return run_copy(dst.nbytes(), [&] { repack_float4(source.view(), dst); });
  if (decision.casts) return cast_into(source, caster_for(source, target, dst.dtype), dst);
  if (source.needs_framework()) return check(source.adapter().fill(source.object(), &dst));
  copy_elements(source.view(), dst, fresh);
}

// Describes a result in `dims` that differs from the source's shape and strides: row-major, or with
// the last extent halved or doubled where float4 is repacked. Returns its dtype.
DLDataType describe_result(const TensorView& view, const Request& request, const Plan& decision,
                           Loan& dims) {
  const bool repacks = decision.reasons.has(ErrorCode::float4_packing);
  const bool unpacks = repacks && DType(view.dtype) == kFloat4Pair;
  dims.set_rank(unpacks && view.ndim == 0 ? 1 : view.ndim);
  dims.shape()[0] = 1;  // a single pair becomes a vector of two
  std::copy_n(view.shape, view.ndim, dims.shape());
  std::copy_n(view.strides, view.ndim, dims.strides());
  dims.view().dtype = request.dtype ? *request.dtype : view.dtype;
  dims.view().subbyte_padded = view.subbyte_padded;
  if (request.row_major) compact_strides(dims.view().extents(), dims.strides());
  if (!repacks) return dims.view().dtype;
  const int32_t last = dims.view().ndim - 1;
  dims.shape()[last] = unpacks ? dims.shape()[last] * 2 : dims.shape()[last] / 2;
  compact_strides(dims.view().extents(), dims.strides());
  return unpacks ? kFloat4Padded : kFloat4Pair;
}

PyObject* copy_of(const Source& source, const Adapter& target, const Request& request,
                  const Plan& decision) {
  const HeldCapsule held(source.object());
  const TensorView* like = &source.view();
  DLDataType dtype = request.dtype.value_or(like->dtype);
  Loan dims;
  if (request.row_major || decision.reasons.has(ErrorCode::float4_packing)) {
    dtype = describe_result(source.view(), request, decision, dims);
    like = &dims.view();
  }
  PyObject* made = nullptr;
  Loan memory;
  check(target.empty(like, dtype, &made, &memory));
  Reference owned(made);
  fill(source, target, decision, memory.view(), true);
  if (target.finish == nullptr) return owned.release();
  PyObject* finished = nullptr;
  check(target.finish(made, &finished));
  static_cast<void>(owned.release());  // finish took it
  return finished;
}

// Returns true if `out` can be written while the source is read. Core's own copy takes any layout;
// a framework may know neither negative strides nor misaligned memory.
bool can_fill_in_place(const Source& source, const Plan& decision, const TensorView& out) noexcept {
  if (ranges_intersect(source.view(), out)) return false;
  if (!decision.casts && !source.needs_framework()) return true;
  return negative_stride_dimension(out) < 0 && is_aligned(out);
}

// Managed memory that the host shares counts as the host's where the target lives there.
void take_managed_as_host(Source& source, const Adapter& target) noexcept {
  const Device device(source.view().device);
  if (device.type() != DeviceType::cuda_managed || !target.traits->host_only) return;
  const DeviceModule* module = usable_device_module();
  if (module != nullptr && module->shares_managed(device.id())) source.take_as_host();
}

// A framework's tensor over device memory that this process cannot reach is refused: the missing
// driver becomes a reason.
void add_missing_driver(Source& source, const Adapter& target, const Request& request) {
  const bool foreign = source.adapter().traits != target.traits && target.device_empty != nullptr;
  const bool staged = request.device && Device(*request.device).is_host();
  if (!foreign || staged || !Device(source.view().device).is_cuda()) return;
  ReasonSet reasons = unusable_reasons();
  // Without the module streams cannot be ordered; the framework knows whether there is a driver.
  if (device_module() == nullptr && !target.has_device()) reasons = ErrorCode::no_driver;
  source.view().reasons.add(reasons);
}

// Completes what a plan depends on.
void prepare(Source& source, const Adapter& target, Request& request) {
  take_managed_as_host(source, target);
  if (request.assume_writable && source.view().access == Access::unknown)
    source.view().access = Access::writable;
  const bool on_device = !Device(source.view().device).is_host();
  const bool to_device = request.device && !Device(*request.device).is_host();
  if (request.row_major && (on_device || to_device)) {
    throw Error(ErrorCode::invalid_argument, "order",
                "order=\"C\" was given, and " +
                    Device(on_device ? source.view().device : *request.device).name() +
                    " takes part; expected host memory: leave order= out here, and pass it in a "
                    "call on the host");
  }
  if (on_device || to_device) usable_device_module();  // before the plan, which asks it
  add_missing_driver(source, target, request);
  const Adapter& own = source.adapter();
  request.source_casts = own.fill != nullptr && (!request.dtype || can_hold(own, *request.dtype));
}

// A source that cannot cast may go through a framework that shares its memory and can.
std::string remedy_by_other(const Source& source, const Adapter& target) {
  if (source.adapter().fill != nullptr) return {};
  const Reference package = checked(PyImport_ImportModule("dlbridge"));
  for (const Adapter* other : adapters()) {
    const std::string function = std::string("to_") + other->traits->name;
    if (other != &target && other->fill != nullptr && can_read(*other, source.view()) &&
        PyObject_HasAttrString(package.get(), function.c_str()))
      return "pass dlbridge." + function + "(x) with a dtype= that {target} has";
  }
  return {};
}

// Where CUDA cannot be used, the reason is that, not that nothing stages.
void name_missing_driver(const Source& source, const Request& request, Plan& decision) {
  const bool cuda = Device(source.view().device).is_cuda() ||
                    (request.device && Device(*request.device).is_cuda());
  const bool casts_on_device = decision.casts && !decision.stages;
  if (!cuda || casts_on_device || !decision.reasons.has(ErrorCode::no_staging)) return;
  const ReasonSet unusable = unusable_reasons();
  if (!unusable.empty())
    decision.reasons = decision.reasons.without(ErrorCode::no_staging) | unusable;
}

// ", such as x.get()": the call with which the source's own framework copies it; empty where that
// is unknown.
std::string own_copy(const Source& source, bool to_host) {
  const Reference call =
      call_python("dlbridge._advice", "own_copy", "(Oi)", source.original(), to_host ? 1 : 0);
  const std::string text = text_of(call.get());
  return text.empty() ? text : ", such as " + text;
}

// The error of a staging that nothing here does, with what keeps the device module from it.
Error unstaged(const Source& source, const Request& request, const Error& error) {
  const Device device(source.view().device);
  std::string asked = "device is " + device.name();
  if (request.device) asked += ", " + Device(*request.device).name() + " was asked for";
  const std::string advice =
      device.is_host() ? "leave device= out to stay in host memory"
                       : "copy it to the host with its own framework" + own_copy(source, true);
  std::string why;
  try {
    const DeviceModule& module = require_device_module();
    check(module.describe(&why));
    why = "nothing is staged between them here (" + why + ")";
  } catch (const Error& unavailable) {
    why = unavailable.what();
  }
  return Error(error.code(), error.field(), asked + ": " + why + ": " + advice);
}

}  // namespace

Plan plan_for(Source& source, const Adapter& target, Request& request) {
  prepare(source, target, request);
  Plan decision = plan(source.view(), *target.traits, request);
  if (decision.verdict == Verdict::refuse && target.extend != nullptr &&
      (decision.reasons.has(ErrorCode::missing_ml_dtypes) ||
       decision.reasons.has(ErrorCode::unsupported_dtype)) &&
      target.extend()) {
    decision = plan(source.view(), *target.traits, request);
  }
  name_missing_driver(source, request, decision);
  return decision;
}

Error refusal_of(const Source& source, const Adapter& target, const Request& request,
                 const Plan& decision) {
  TensorView view = source.view();
  std::string remedy;
  ReasonDetail detail{view.found()};
  if (decision.reasons.first() == ErrorCode::unsupported_dtype && view.remedy() == nullptr) {
    remedy = remedy_by_other(source, target);
    if (!remedy.empty()) detail.remedy = remedy.c_str();
    view.detail = &detail;
  }
  const Error error = refusal(view, *target.traits, request, decision);
  constexpr ReasonSet kUnstaged = ReasonSet(ErrorCode::no_staging) | ErrorCode::no_driver |
                                  ErrorCode::driver_too_old | ErrorCode::no_device;
  const bool no_staging = error.code() == ErrorCode::no_staging;
  if (decision.stages && kUnstaged.has(error.code())) return unstaged(source, request, error);
  if (no_staging && view.reasons.has(ErrorCode::no_staging)) return unstaged(source, {}, error);
  const bool copies = no_staging && !decision.casts && !Device(view.device).is_host();
  const bool stays = error.code() == ErrorCode::device_not_named &&
                     find_staging(view.device, Device(DeviceType::cpu)) == nullptr;
  if (!copies && !stays) return error;
  return Error(error.code(), error.field(), error.what() + own_copy(source, stays));
}

void require_out(const TensorView& out, const Adapter& target) {
  Plan refused;
  refused.reasons = out.reasons;
  if (out.access != Access::writable) refused.reasons.add(ErrorCode::read_only);
  if (refused.reasons.empty() && (has_partial_overlap(out) || broadcast_dimension(out) >= 0))
    refused.reasons.add(ErrorCode::overlap);
  if (refused.reasons.empty()) return;
  const Error error = refusal(out, *target.traits, {}, refused);
  throw Error(error.code(), "out",
              text_of(call_python("dlbridge._advice", "refused_out", "(s)", error.what()).get()));
}

void copy_elements(const TensorView& src, const TensorView& dst, bool fresh) {
  run_copy(dst.nbytes(), [&] { copy_host(src, dst, fresh); });
}

PyObject* share_guarded(Source& source, const Adapter& target, OnWrite on_write) {
  // Kept for good: a destructor would run after Python has ended.
  static PyObject* const reducers = checked(PyImport_ImportModule("dlbridge._guarded")).release();
  static_cast<void>(reducers);
  source.acquire();
  PyObject* result = nullptr;
  Error* error = target.wrap_guarded(&source.loan(), on_write, &result);
  if (error != nullptr) [[unlikely]] {
    const PendingException aside;
    source.loan().reset();
  }
  check(error);
  return result;
}

PyObject* convert_on_host(Source& source, const Adapter& target, const Request& request,
                          const Plan& decision) {
  if (decision.verdict == Verdict::refuse) throw refusal_of(source, target, request, decision);
  if (decision.verdict == Verdict::share) return share(source, target, request.on_write);
  return copy_of(source, target, request, decision);
}

PyObject* convert_on_host(PyObject* x, const Adapter& target, Request request) {
  Source source;
  source.open(x);
  const Plan decision = plan_for(source, target, request);
  return convert_on_host(source, target, request, decision);
}

void fill_on_host(const Source& source, const Adapter& target, const Plan& decision,
                  const TensorView& memory) {
  const HeldCapsule held(source.object());
  if (can_fill_in_place(source, decision, memory))
    return fill(source, target, decision, memory, false);
  Loan apart = allocate_like(memory);
  fill(source, target, decision, apart.view(), true);
  copy_elements(apart.view(), memory, false);
}

}  // namespace dlbridge::python
