// SPDX-License-Identifier: Apache-2.0
// Conversions of nested containers: dict, list, tuple, namedtuple, dataclass.
#pragma once

#include <Python.h>

#include "bridge/adapter.h"

namespace dlbridge::python {

/// Returns true for a dict, a list or a tuple that does not hold numbers alone, and a dataclass;
/// subclasses included, unless they are DLPack producers. Calls nothing of the object.
bool is_container(PyObject* x) noexcept;

/// Converts one leaf: a new reference. Throws.
using LeafConversion = PyObject*(PyObject* x, const Adapter& target, const Request& request);

/// A new container of the same structure whose leaves are converted; None stays. An object that is
/// found twice is converted once. Throws the error of the first leaf that fails, with its path
/// (`x["image"][3]`) in the message. Needs the GIL.
PyObject* convert_container(PyObject* x, const Adapter& target, const Request& request,
                            LeafConversion* convert_leaf);

}  // namespace dlbridge::python
