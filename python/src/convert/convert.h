// SPDX-License-Identifier: Apache-2.0
// Conversions: open the source, plan, do what the plan says. All need the GIL and, except where
// said, throw Error.
#pragma once

#include <Python.h>

#include "bridge/registry.h"

namespace dlbridge::python {

/// Converts `x` for `target` where the call names nothing: the hot path. Returns a new reference.
PyObject* convert(PyObject* x, const Adapter& target);

/// The same, and the one for a handle: null with a Python exception set instead of an Error.
/// `recent`: of the calls for this target.
PyObject* converted(PyObject* x, const Adapter& target, RecentType& recent) noexcept;
PyObject* handle_of(PyObject* x) noexcept;

/// Converts as `request` says.
PyObject* convert(PyObject* x, const Adapter& target, const Request& request);

/// Copies `x` into the existing array `out`, an object of `target`, casting to its dtype. Returns a
/// new reference to `out`.
PyObject* convert_into(PyObject* x, const Adapter& target, Request request, PyObject* out);

}  // namespace dlbridge::python
