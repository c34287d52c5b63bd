// SPDX-License-Identifier: Apache-2.0
// Conversions that stage, or copy on a device.
//
// All need the GIL, release it while they wait, and throw Error. Where a signal's handler raises
// during a wait, that exception passes through; the copy goes on and releases what it holds when it
// is done.
#pragma once

#include <Python.h>

#include "sources/source.h"

namespace dlbridge::python {

/// Does what a plan says that stages. Returns a new reference to an object of `target`.
PyObject* convert_by_staging(Source& source, const Adapter& target, const Request& request,
                             const Plan& decision);

/// The same into `out`, which `memory` describes. Returns a new reference to `out`.
PyObject* stage_into(Source& source, const Adapter& target, const Plan& decision, PyObject* out,
                     Loan& memory);

/// Copies to fresh memory on the source's own device. Returns a new reference.
PyObject* copy_on_device(Source& source, const Adapter& target);

/// Returns when the host may read the source's memory: waits for its stream where it is managed
/// memory, or pinned memory of another framework.
void wait_for_host_access(const Source& source);

}  // namespace dlbridge::python
