// The module objects of adapters and of the device module: nothing in them but the capsule that
// _core takes.
#pragma once

#include <Python.h>

#include "bridge/adapter.h"
#include "support/reference.h"

namespace dlbridge::python {

/// A new module whose `attribute` is a capsule called `kind` of `table`, or null with a Python
/// exception set. All of them live as long as the process.
inline PyObject* new_capsule_module(PyModuleDef& definition, const char* attribute, void* table,
                                    const char* kind) noexcept {
  Reference module(PyModule_Create(&definition));
  Reference capsule(module ? PyCapsule_New(table, kind, nullptr) : nullptr);
  if (!capsule || PyModule_AddObjectRef(module.get(), attribute, capsule.get()) < 0) return nullptr;
  return module.release();
}

inline PyObject* new_adapter_module(PyModuleDef& definition, Adapter& adapter) noexcept {
  return new_capsule_module(definition, "adapter", &adapter, kAdapterCapsule);
}

}  // namespace dlbridge::python
