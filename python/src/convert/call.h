// SPDX-License-Identifier: Apache-2.0
// Calls of the conversion functions from Python: arguments read, target found, converted. For
// METH_FASTCALL | METH_KEYWORDS. All need the GIL; each returns a new reference, or null with a
// Python exception set. Inline: the hot path of a call with one positional argument, which needs no
// stack frame.
#pragma once

#include <Python.h>

#include "convert/convert.h"

namespace dlbridge::python {

enum class Function { to_numpy, to_torch, from_dlpack };

/// Any call; call() takes most of those with one positional argument. Sets `target` where it is
/// null.
PyObject* call_slow(Function function, const Adapter*& target, PyObject* const* args,
                    Py_ssize_t nargs, PyObject* names) noexcept;

template <Function function>
PyObject* call(PyObject* const* args, Py_ssize_t nargs, PyObject* names) noexcept {
  static const Adapter* target = nullptr;  // looked up once
  static RecentType recent{&kNoType};
  if (nargs == 1 && names == nullptr && target != nullptr) [[likely]] {
    if constexpr (function == Function::from_dlpack) return handle_of(args[0]);
    return converted(args[0], *target, recent);
  }
  return call_slow(function, target, args, nargs, names);
}

}  // namespace dlbridge::python
