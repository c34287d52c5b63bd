// Conversions: open the source, plan, obey the plan.
#pragma once

#include <Python.h>

#include "bridge/adapter.h"
#include "sources/source.h"

namespace dlbridge::python {

/// Converts `x` for `target`, as `request` says. A new reference, or null with a Python exception
/// set.
PyObject* convert(PyObject* x, const Adapter& target, const Request& request) noexcept;

/// Copies `x` into the existing array `out` (owned by `target`), casting to its dtype. Returns a
/// new reference to out.
PyObject* convert_into(PyObject* x, const Adapter& target, Request request, PyObject* out) noexcept;

/// Managed memory that the host shares counts as the host's where the target lives there.
void take_managed_as_host(Source& source, const Adapter& target) noexcept;

/// The plan for an opened source; widens the target's traits by optional packages where that helps.
/// `request` is completed with what the source can do.
Plan plan_for(const Source& source, const Adapter& target, Request& request) noexcept;

/// The error for a refused plan, with what keeps the device module from helping.
Error refusal_of(const Source& source, const Adapter& target, const Request& request,
                 const Plan& decision);

}  // namespace dlbridge::python
