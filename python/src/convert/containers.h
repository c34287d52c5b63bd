// SPDX-License-Identifier: Apache-2.0
// Conversions of nested containers: dict, list, tuple, namedtuple, dataclass.
#pragma once

#include <Python.h>

#include <functional>

namespace dlbridge::python {

/// Returns true for a dict, a list or a tuple that does not hold numbers alone, and a dataclass of
/// public fields without __array__; subclasses included, unless they are DLPack producers. Calls
/// nothing of the object.
bool is_container(PyObject* x);

/// A new container of the same structure whose leaves are what `convert` returns for them, a new
/// reference each; None stays. An object that is found twice is converted once. `x` may be a leaf
/// itself. Throws the error of the first leaf that fails, with its path (`root["image"][3]`) in the
/// message. Needs the GIL.
PyObject* map_container(PyObject* x, const char* root,
                        const std::function<PyObject*(PyObject*)>& convert);

}  // namespace dlbridge::python
