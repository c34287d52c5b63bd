// The module object of an adapter: nothing in it but the capsule that _core takes.
#pragma once

#include <Python.h>

#include "adapter.h"
#include "reference.h"

namespace dlbridge::python {

/// A new module with the attribute `adapter`, or null with a Python exception set. `adapter` and
/// `definition` live as long as the process.
inline PyObject* new_adapter_module(PyModuleDef& definition, Adapter& adapter) noexcept {
  Reference module(PyModule_Create(&definition));
  Reference capsule(module ? PyCapsule_New(&adapter, kAdapterCapsule, nullptr) : nullptr);
  if (!capsule || PyModule_AddObjectRef(module.get(), "adapter", capsule.get()) < 0) return nullptr;
  return module.release();
}

}  // namespace dlbridge::python
