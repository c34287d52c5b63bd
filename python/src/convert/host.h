// SPDX-License-Identifier: Apache-2.0
// Conversions in host memory: the plan for an opened source, and what it does where nothing is
// staged. All need the GIL and throw Error.
#pragma once

#include <Python.h>

#include "bridge/adapter.h"
#include "sources/source.h"

namespace dlbridge::python {

/// The plan for an opened source. Completes what the decision needs first: the source's view
/// (managed memory that the host shares counts as the host's, a missing driver becomes a reason),
/// `request` (whether the source casts), the device module, the target's optional packages.
Plan plan_for(Source& source, const Adapter& target, Request& request);

/// The error for a refused plan, with what keeps the device module from staging.
Error refusal_of(const Source& source, const Adapter& target, const Request& request,
                 const Plan& decision);

/// Throws where `out`, the view of an array of `target`, cannot be written element by element.
void require_out(const TensorView& out, const Adapter& target);

/// copy_host(), without the GIL where the copy is large.
void copy_elements(const TensorView& src, const TensorView& dst, bool fresh);

/// A new reference to `target`'s object over the memory of `x`, which `own` has described in
/// `loan`. Inline: the hot path.
[[gnu::always_inline]] inline PyObject* share(PyObject* x, const Adapter& own, Loan& loan,
                                              const Adapter& target) {
  PyObject* result = nullptr;
  if (loan.original && target.reuse_storage != nullptr) {
    check(target.reuse_storage(&loan, &result));
    if (result != nullptr) return result;
    loan.original = {};  // gone: wrap() does not look it up again
  }
  check(own.acquire(x, &loan));
  Error* error = target.wrap(&loan, &result);
  if (error != nullptr) [[unlikely]] {
    const PendingException aside;
    loan.reset();
  }
  check(error);
  return result;
}
inline PyObject* share(Source& source, const Adapter& target) {
  return share(source.object(), source.adapter(), source.loan(), target);
}

/// The same by wrap_guarded.
PyObject* share_guarded(Source& source, const Adapter& target, OnWrite on_write);

/// The same where the call may say what a write to memory that is not known to be writable does.
inline PyObject* share(Source& source, const Adapter& target, OnWrite on_write) {
  const bool guarded = on_write != OnWrite::unset && source.view().access != Access::writable &&
                       Device(source.view().device).is_host();
  return guarded ? share_guarded(source, target, on_write) : share(source, target);
}

/// Does what a plan says that neither stages nor concerns device memory. Returns a new reference.
PyObject* convert_on_host(Source& source, const Adapter& target, const Request& request,
                          const Plan& decision);

/// Opens `x`, an object in host memory, plans and converts. Returns a new reference.
PyObject* convert_on_host(PyObject* x, const Adapter& target, Request request);

/// Copies the elements into `memory`, the writable view of an existing array, casting to its dtype.
void fill_on_host(const Source& source, const Adapter& target, const Plan& decision,
                  const TensorView& memory);

}  // namespace dlbridge::python
