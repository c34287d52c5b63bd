// SPDX-License-Identifier: Apache-2.0
// References to Python objects that any thread may drop at any time.
#pragma once

#include <Python.h>

#include <cassert>

#include "dlbridge/loan.h"

namespace dlbridge {

/// Drops one reference to the PyObject `object`. A thread that holds the GIL drops it at once; a
/// thread that Python knows takes the GIL first; a thread that Python does not know never waits: it
/// queues the object and schedules a pending call. While the interpreter finalises, and after that,
/// the reference is leaked on purpose. Keeps a pending Python exception. Safe in a fork's child.
void release_python_object(void* object) noexcept;

/// Takes a new reference to `object`, which the returned Deleter drops on any thread. Requires the
/// GIL.
inline Deleter hold(PyObject* object) noexcept {
  assert(PyGILState_Check());
  return {Py_NewRef(object), release_python_object};
}

}  // namespace dlbridge
