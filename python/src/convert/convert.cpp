// SPDX-License-Identifier: Apache-2.0
#include "convert/convert.h"

#include <algorithm>

#include "bridge/registry.h"
#include "convert/arguments.h"
#include "convert/containers.h"
#include "convert/host.h"
#include "dlbridge/layout.h"
#include "gpu/convert.h"
#include "gpu/streams.h"
#include "tensor/value.h"

namespace dlbridge::python {
namespace {

// Shares memory that a device may still write: the consumer's stream waits for the producer's, the
// host waits for it. The original storage, too, is reused only after that.
PyObject* share_ordered(Source& source, const Adapter& target, OnWrite on_write) {
  const intptr_t stream = order_for(source, target);
  wait_for_host_access(source);
  Reference result(share(source, target, on_write));
  if (target.set_stream != nullptr) target.set_stream(result.get(), stream);
  return result.release();
}

PyObject* convert_opened(Source& source, const Adapter& target, Request request) {
  const Plan decision = plan_for(source, target, request);
  if (decision.verdict == Verdict::refuse) throw refusal_of(source, target, request, decision);
  if (decision.stages) return convert_by_staging(source, target, request, decision);
  if (decision.verdict == Verdict::share) {
    const bool plain = source.view().device.device_type == kDLCPU && source.managed_by() < 0;
    return plain ? share(source, target, request.on_write)
                 : share_ordered(source, target, request.on_write);
  }
  if (!Device(source.view().device).is_host()) return copy_on_device(source, target);
  wait_for_host_access(source);
  return convert_on_host(source, target, request, decision);
}

std::string shape_text(std::span<const int64_t> extents) {
  return repr_of(checked(tuple_of(extents)).get());
}

constexpr Request kNothingNamed;

PyObject* convert_leaf(PyObject* x, const Adapter& target, const Request& request) {
  if (&request == &kNothingNamed) return convert(x, target);
  const Reference array = array_of_scalar(x, request.copy >= CopyMode::if_needed);
  return convert(array ? array.get() : x, target, request);
}

[[gnu::always_inline]] inline PyObject* convert_plain(PyObject* x, const Adapter& target,
                                                      RecentType& recent) {
  if (const Adapter* own = adapter_by_type(Py_TYPE(x), recent)) [[likely]] {
    Loan loan;
    check(own->describe(x, &loan));
    if (loan.view().device.device_type == kDLCPU && shares_plainly(loan.view(), *target.traits))
        [[likely]]
      return share(x, *own, loan, target);
  }
  return convert(x, target, kNothingNamed);
}

}  // namespace

[[gnu::noinline]] PyObject* converted(PyObject* x, const Adapter& target,
                                      RecentType& recent) noexcept {
  return translated(
      [&]() __attribute__((always_inline)) { return convert_plain(x, target, recent); });
}

[[gnu::noinline]] PyObject* handle_of(PyObject* x) noexcept {
  return translated([&] {
    PyObject* handle = share_as_tensor(x);
    return handle != nullptr ? handle : convert(x, tensor_adapter(), kNothingNamed);
  });
}

PyObject* convert(PyObject* x, const Adapter& target) {
  static RecentType recent{&kNoType};  // a container's leaves are of one kind
  return convert_plain(x, target, recent);
}

PyObject* convert(PyObject* x, const Adapter& target, const Request& request) {
  Source source;
  if (!source.open_known(x)) {
    if (is_container(x))
      return map_container(x, "x",
                           [&](PyObject* leaf) { return convert_leaf(leaf, target, request); });
    source.open_slow(x);
  }
  return convert_opened(source, target, request);
}

PyObject* convert_into(PyObject* x, const Adapter& target, Request request, PyObject* out) {
  if (Py_TYPE(out) != target.exact_types[0] && !target.accepts(out)) {
    throw_wrong_type("out", out, "a numpy.ndarray: pass numpy.empty(x.shape, dtype)");
  }
  Source source;
  source.open(x);
  Loan memory;
  check(target.describe(out, &memory));
  require_out(memory.view(), target);
  if (request.dtype && !(DType(*request.dtype) == DType(memory.view().dtype))) {
    throw Error(ErrorCode::invalid_dtype, "dtype",
                "dtype is " + DType(*request.dtype).name() + ", but out's is " +
                    DType(memory.view().dtype).name() + ": leave dtype= out");
  }
  request.into_existing = true;
  request.dtype = memory.view().dtype;
  const Plan decision = plan_for(source, target, request);
  if (decision.verdict == Verdict::refuse) throw refusal_of(source, target, request, decision);
  // After the plan: the view of a kind that is refused may have a stand-in for its shape.
  if (!std::ranges::equal(source.view().extents(), memory.view().extents())) {
    throw Error(ErrorCode::shape_mismatch, "out",
                "out has the shape " + shape_text(memory.view().extents()) + ", x has " +
                    shape_text(source.view().extents()) +
                    ": pass numpy.empty_like(x) or an array of x's shape");
  }
  if (decision.stages) return stage_into(source, target, decision, out, memory);
  wait_for_host_access(source);
  fill_on_host(source, target, decision, memory.view());
  return Py_NewRef(out);
}

}  // namespace dlbridge::python
