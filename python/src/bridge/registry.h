// The adapters that are loaded, by exact type and by name.
#pragma once

#include <Python.h>

#include "bridge/adapter.h"

namespace dlbridge::python {

/// The adapter whose exact type `type` is, or null. The hot path: a few comparisons.
const Adapter* adapter_by_type(PyTypeObject* type) noexcept;

/// The adapter that takes `x`, subclasses included. Loads torch's if torch is imported and `x`
/// might be its. Null without a Python exception: none does; null with one: loading failed.
const Adapter* adapter_for(PyObject* x) noexcept;

/// The adapter called `name` ("torch", "numpy", "dlpack"), loaded if need be; null with a Python
/// exception set.
const Adapter* adapter_named(const char* name) noexcept;

/// The adapter called `name` if it is loaded, else null.
const Adapter* adapter_if_loaded(const char* name) noexcept;

/// Takes a module's capsule. Throws nothing; returns null with a Python exception where it does not
/// fit this _core.
PyObject* register_adapter(PyObject* capsule) noexcept;

/// Adds one that is part of _core itself. Borrows: lives as long as the process.
void add_adapter(const Adapter* adapter) noexcept;

}  // namespace dlbridge::python
