// SPDX-License-Identifier: Apache-2.0
// Calls of the conversion functions from Python: arguments read, target found, converted. For
// METH_FASTCALL | METH_KEYWORDS. All need the GIL and throw Error; each returns a new reference.
// Inline: the hot path of a call with one positional argument.
#pragma once

#include <Python.h>

#include "bridge/registry.h"
#include "convert/convert.h"
#include "tensor/value.h"

namespace dlbridge::python {

enum class Function { to_numpy, to_torch, from_dlpack };

/// Every call but one with a single positional argument.
PyObject* call_with_keywords(Function function, const Adapter& target, PyObject* const* args,
                             Py_ssize_t nargs, PyObject* names);

template <Function function>
PyObject* call(PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  static const Adapter* target = nullptr;  // looked up once
  if (target == nullptr) [[unlikely]] {
    target = function == Function::from_dlpack
                 ? &tensor_adapter()
                 : &adapter_named(function == Function::to_numpy ? "numpy" : "torch");
  }
  if (nargs == 1 && names == nullptr) [[likely]] {
    if constexpr (function == Function::from_dlpack) {
      if (PyObject* handle = share_as_tensor(args[0])) [[likely]]
        return handle;
    }
    return convert(args[0], *target);
  }
  return call_with_keywords(function, *target, args, nargs, names);
}

}  // namespace dlbridge::python
