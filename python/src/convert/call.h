// Calls of the conversion functions from Python: arguments read, target found, converted. For
// METH_FASTCALL | METH_KEYWORDS. All need the GIL and throw Error; each returns a new reference.
#pragma once

#include <Python.h>

namespace dlbridge::python {

PyObject* call_to_numpy(PyObject* const* args, Py_ssize_t nargs, PyObject* names);
PyObject* call_to_torch(PyObject* const* args, Py_ssize_t nargs, PyObject* names);
PyObject* call_from_dlpack(PyObject* const* args, Py_ssize_t nargs, PyObject* names);

}  // namespace dlbridge::python
