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

/// Calls a deleter that may be release_python_object(), at less cost. Requires the GIL.
inline void release_with_gil(Deleter deleter) noexcept {
  auto* object = static_cast<PyObject*>(deleter.context);
  if (deleter.release == release_python_object && Py_REFCNT(object) > 1) [[likely]]
    Py_DECREF(object);
  else if (deleter)
    deleter.release(deleter.context);
}

/// Takes a new reference to `object`, which the returned Deleter drops on any thread. Requires the
/// GIL.
inline Deleter hold(PyObject* object) noexcept {
  assert(PyGILState_Check());
  return {Py_NewRef(object), release_python_object};
}

}  // namespace dlbridge
