#include "convert/convert.h"

#include <algorithm>

#include "bridge/device_module.h"
#include "dlbridge/copy.h"
#include "dlbridge/layout.h"
#include "gpu/convert.h"
#include "gpu/streams.h"
#include "sources/capsule.h"
#include "support/errors.h"
#include "tensor/value.h"

namespace dlbridge::python {
namespace {

// What only the source's own framework can resolve while copying.
constexpr ReasonSet kNeedsSource =
    ReasonSet(ErrorCode::byte_order) | ErrorCode::stride_not_multiple | ErrorCode::conj_bit |
    ErrorCode::neg_bit | ErrorCode::zero_tensor | ErrorCode::copy_on_write;

// Below this a copy is over before the GIL has changed hands.
constexpr int64_t kReleaseGilBytes = 64 * 1024;

bool succeeded(Error* error) noexcept {
  if (error == nullptr) return true;
  raise(error);
  return false;
}

// Runs core's copies, without the GIL where that pays.
template <typename Copy>
bool run_host_copy(int64_t bytes, Copy&& copy) noexcept {
  PyThreadState* state = bytes >= kReleaseGilBytes ? PyEval_SaveThread() : nullptr;
  Error* error = guarded(copy);
  if (state != nullptr) parked_at_exit([&] { PyEval_RestoreThread(state); });
  return succeeded(error);
}

bool host_copy(const TensorView& src, const TensorView& dst) noexcept {
  return run_host_copy(dst.nbytes(), [&] { copy_host(src, dst); });
}

// Whether `adapter`'s framework can read this memory as it stands, read-only or not.
bool can_read(const Adapter& adapter, const TensorView& view) noexcept {
  TensorView readable = view;
  readable.access = Access::read_only;
  readable.reasons = {};
  TargetTraits traits = *adapter.traits;
  traits.read_only = true;
  return plan(readable, traits, {}).verdict == Verdict::share;
}

// Casts into `dst`: by the framework that does it on several threads if it can, else by the other.
bool cast_into(const Source& source, const Adapter& target, const TensorView& dst) noexcept {
  const Adapter& own = source.adapter();
  const bool target_can = target.cast != nullptr && target.traits->dtypes.contains(dst.dtype);
  const bool source_can = own.fill != nullptr && own.traits->dtypes.contains(dst.dtype);
  const bool needs_source = !(source.view().reasons & kNeedsSource).empty();
  const bool target_reads = target_can && !needs_source && can_read(target, source.view());
  if (target_reads && (target.threaded_casts || !source_can))
    return succeeded(target.cast(&source.view(), &dst));
  if (source_can) return succeeded(own.fill(source.object(), &dst));
  if (target_reads) return succeeded(target.cast(&source.view(), &dst));

  // Neither at once: a plain copy first.
  Loan plain;
  TensorView from = source.view();
  if (!succeeded(guarded([&] { plain = allocate_like(from); }))) return false;
  if (needs_source ? !succeeded(own.fill(source.object(), &plain.view()))
                   : !host_copy(from, plain.view()))
    return false;
  return succeeded(target.cast(&plain.view(), &dst));
}

bool fill(const Source& source, const Adapter& target, const Plan& plan,
          const TensorView& dst) noexcept {
  const TensorView& view = source.view();
  if (plan.reasons.has(ErrorCode::float4_packing))
    return run_host_copy(dst.nbytes(), [&] { repack_float4(view, dst); });
  if (plan.casts) return cast_into(source, target, dst);
  if (!(view.reasons & kNeedsSource).empty())
    return succeeded(source.adapter().fill(source.object(), &dst));
  return host_copy(view, dst);
}

// The description of the result: the source's, with the last extent halved or doubled where float4
// is repacked.
struct ResultShape {
  Loan dims;
  DLDataType dtype;
};

void describe_result(const TensorView& view, const Request& request, const Plan& plan,
                     ResultShape& result) {
  result.dtype = request.dtype ? *request.dtype : view.dtype;
  Loan& dims = result.dims;
  const bool repacks = plan.reasons.has(ErrorCode::float4_packing);
  const bool unpacks = repacks && DType(view.dtype) == kFloat4Pair;
  dims.set_rank(unpacks && view.ndim == 0 ? 1 : view.ndim);
  dims.shape()[0] = 1;  // a single pair becomes a vector of two
  std::copy_n(view.shape, view.ndim, dims.shape());
  std::copy_n(view.strides, view.ndim, dims.strides());
  dims.view().dtype = result.dtype;
  dims.view().subbyte_padded = view.subbyte_padded;
  if (!repacks) return;
  const int32_t last = dims.view().ndim - 1;
  dims.shape()[last] = unpacks ? dims.shape()[last] * 2 : dims.shape()[last] / 2;
  compact_strides(dims.view().extents(), dims.strides());
  result.dtype = unpacks ? kFloat4Padded : kFloat4Pair;
}

// Sharing memory that a device may still be writing: the consumer is ordered behind the producer,
// the host waits for it. A new reference, or null with a Python exception set.
[[gnu::noinline]] PyObject* share_behind_stream(Source& source, const Adapter& target) noexcept {
  PyObject* result = nullptr;
  Error* error = guarded([&] {
    const intptr_t stream = order_for(source, target);
    wait_for_host_access(source);
    if (!source.acquire()) throw_pending();
    check(target.wrap(&source.loan(), &result));
    set_stream(result, stream);
  });
  return error == nullptr ? result : raise(error);
}

PyObject* convert_by_sharing(Source& source, const Adapter& target) noexcept {
  PyObject* result = nullptr;
  if (source.loan().original && target.reuse_storage != nullptr) {
    if (Error* error = target.reuse_storage(&source.loan(), &result)) return raise(error);
    if (result != nullptr) return result;
  }
  if (source.view().device.device_type != kDLCPU) [[unlikely]]
    return share_behind_stream(source, target);
  if (!source.acquire()) return nullptr;
  if (Error* error = target.wrap(&source.loan(), &result)) return raise(error);
  return result;
}

PyObject* convert_by_copy(const Source& source, const Adapter& target, const Request& request,
                          const Plan& plan) noexcept {
  const HeldCapsule held(source.object());
  if (!held) return nullptr;
  ResultShape shape;
  if (!succeeded(guarded([&] { describe_result(source.view(), request, plan, shape); })))
    return nullptr;
  PyObject* made = nullptr;
  Loan memory;
  if (!succeeded(target.empty(&shape.dims.view(), shape.dtype, &made, &memory))) return nullptr;
  const Reference owned(made);
  if (!fill(source, target, plan, memory.view())) return nullptr;
  if (target.finish == nullptr) return Py_NewRef(made);
  PyObject* finished = nullptr;
  Py_INCREF(made);  // finish takes one reference
  if (!succeeded(target.finish(made, &finished))) {
    Py_DECREF(made);
    return nullptr;
  }
  return finished;
}

bool check_out(const TensorView& out) noexcept {
  if (!out.reasons.empty() || out.access != Access::writable) {
    raise(Error(
        out.access != Access::writable ? ErrorCode::read_only : out.reasons.first(), "out",
        "out is not a writable array that DLPack can describe: pass a plain, writable ndarray"));
    return false;
  }
  if (has_partial_overlap(out) || broadcast_dimension(out) >= 0) {
    raise(Error(ErrorCode::overlap, "out",
                "out's elements overlap each other: pass an array without overlap"));
    return false;
  }
  return true;
}

// Whether `out` can be written while the source is read, by whoever fills it. Core's own copy takes
// any layout; a framework may know neither negative strides nor misaligned memory.
bool can_fill_in_place(const Source& source, const Plan& plan, const TensorView& out) noexcept {
  if (ranges_intersect(source.view(), out)) return false;
  const bool by_framework = plan.casts || !(source.view().reasons & kNeedsSource).empty();
  if (!by_framework) return true;
  const int64_t itemsize = out.itemsize();
  return negative_stride_dimension(out) < 0 &&
         reinterpret_cast<uintptr_t>(out.data) % itemsize == 0;
}

}  // namespace

void take_managed_as_host(Source& source, const Adapter& target) noexcept {
  const Device device(source.view().device);
  if (device.type() != DeviceType::cuda_managed || !target.traits->host_only) return;
  const DeviceModule* module = usable_device_module();
  if (module != nullptr && module->shares_managed(device.id())) source.take_as_host();
}

Error refusal_of(const Source& source, const Adapter& target, const Request& request,
                 const Plan& decision) {
  const Error error = refusal(source.view(), *target.traits, request, decision);
  if (error.code() != ErrorCode::no_staging || !decision.stages) return error;
  const bool on_host = Device(source.view().device).is_host();
  const std::string asked = "device is " + Device(source.view().device).name() + ", " +
                            Device(*request.device).name() + " was asked for: ";
  const std::string remedy = on_host ? ": leave device= out to stay in host memory"
                                     : ": copy it with its own framework, such as x.cpu()";
  std::string why;
  try {
    const DeviceModule& module = require_device_module();
    check(module.describe(&why));
    why = "nothing is staged between them here (" + why + ")";
  } catch (const Error& unavailable) {
    why = unavailable.what();
  }
  return Error(ErrorCode::no_staging, error.field(), asked + why + remedy);
}

namespace {

PyObject* raise_refusal(const Source& source, const Adapter& target, const Request& request,
                        const Plan& decision) noexcept {
  return raise(guarded([&] { throw refusal_of(source, target, request, decision); }));
}

// Whether the host may read the source's memory now; else a Python exception is set.
bool host_may_read(const Source& source) noexcept {
  return succeeded(guarded([&] { wait_for_host_access(source); }));
}

}  // namespace

Plan plan_for(const Source& source, const Adapter& target, Request& request) noexcept {
  const bool on_device = !Device(source.view().device).is_host();
  if (on_device || (request.device && !Device(*request.device).is_host())) device_module();
  request.source_casts = source.adapter().fill != nullptr;
  Plan decision = plan(source.view(), *target.traits, request);
  if (decision.verdict == Verdict::refuse && target.extend != nullptr &&
      (decision.reasons.has(ErrorCode::missing_ml_dtypes) ||
       decision.reasons.has(ErrorCode::unsupported_dtype)) &&
      target.extend()) {
    decision = plan(source.view(), *target.traits, request);
  }
  return decision;
}

namespace {

// Everything but the plain share: kept out of the way of the hot path.
[[gnu::noinline]] PyObject* convert_otherwise(Source& source, const Adapter& target,
                                              Request request) noexcept {
  take_managed_as_host(source, target);
  const Plan decision = plan_for(source, target, request);
  if (decision.verdict == Verdict::refuse) return raise_refusal(source, target, request, decision);
  if (decision.verdict == Verdict::share)
    return source.managed_by() < 0 ? convert_by_sharing(source, target)
                                   : share_behind_stream(source, target);
  if (decision.stages) return convert_by_staging(source, target, request, decision);
  if (!Device(source.view().device).is_host()) return copy_on_device(source, target);
  if (!host_may_read(source)) return nullptr;
  return convert_by_copy(source, target, request, decision);
}

}  // namespace

PyObject* convert(PyObject* x, const Adapter& target, const Request& asked) noexcept {
  Source source;
  if (!source.open(x)) return nullptr;
  if (plan(source.view(), *target.traits, asked).verdict == Verdict::share) [[likely]]
    return convert_by_sharing(source, target);
  return convert_otherwise(source, target, asked);
}

PyObject* convert_into(PyObject* x, const Adapter& target, Request request,
                       PyObject* out) noexcept {
  if (!target.accepts(out))
    return raise_type_error("out is %.200s; expected a numpy.ndarray", Py_TYPE(out)->tp_name);
  Source source;
  Loan memory;
  if (!source.open(x) || !succeeded(target.describe(out, &memory))) return nullptr;
  if (!check_out(memory.view())) return nullptr;
  if (request.dtype && !(DType(*request.dtype) == DType(memory.view().dtype))) {
    return raise(Error(ErrorCode::invalid_dtype, "dtype",
                       "dtype is " + DType(*request.dtype).name() + ", but out is " +
                           DType(memory.view().dtype).name() + ": leave dtype out"));
  }
  request.into_existing = true;
  request.dtype = memory.view().dtype;
  take_managed_as_host(source, target);
  const Plan decision = plan_for(source, target, request);
  if (decision.verdict == Verdict::refuse) return raise_refusal(source, target, request, decision);
  // Not before the plan: the view of a kind that is refused may have a stand-in for its shape.
  if (!std::ranges::equal(source.view().extents(), memory.view().extents())) {
    return raise(
        Error(ErrorCode::shape_mismatch, "out",
              "out has another shape than x: pass numpy.empty_like(x) or an array of x's shape"));
  }
  if (decision.stages) return stage_into(source, target, decision, out, memory);
  if (!host_may_read(source)) return nullptr;
  const HeldCapsule held(source.object());
  if (!held) return nullptr;
  if (can_fill_in_place(source, decision, memory.view())) {
    if (!fill(source, target, decision, memory.view())) return nullptr;
    return Py_NewRef(out);
  }
  Loan apart;
  if (!succeeded(guarded([&] { apart = allocate_like(memory.view()); }))) return nullptr;
  if (!fill(source, target, decision, apart.view()) || !host_copy(apart.view(), memory.view()))
    return nullptr;
  return Py_NewRef(out);
}

}  // namespace dlbridge::python
