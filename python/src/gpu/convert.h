// Staging: what conversions do where a device= names another place.
//
// All need the GIL and release it while they wait. A wait that a signal's handler ends raises that
// exception; the copy goes on and gives back what it holds when it is done.
#pragma once

#include <Python.h>

#include "sources/source.h"

namespace dlbridge::python {

/// Does what a plan says that stages: a new reference to `target`'s object, or null with a Python
/// exception set.
PyObject* convert_by_staging(Source& source, const Adapter& target, const Request& request,
                             const Plan& plan) noexcept;

/// The same into `out`, `memory` its view without an owner: a new reference to it.
PyObject* stage_into(Source& source, const Adapter& target, const Plan& plan, PyObject* out,
                     Loan& memory) noexcept;

/// A copy on one device, in fresh memory there.
PyObject* copy_on_device(Source& source, const Adapter& target) noexcept;

/// The host may read the source's memory then: waits for its stream where it is managed memory, or
/// pinned memory of another framework's; else at once. Throws Error.
void wait_for_host_access(const Source& source);

}  // namespace dlbridge::python
