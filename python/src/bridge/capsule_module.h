// SPDX-License-Identifier: Apache-2.0
// Extension modules that hold a capsule for _core and nothing else; the tables in such capsules.
#pragma once

#include <Python.h>

#include "bridge/adapter.h"
#include "support/reference.h"

namespace dlbridge::python {

/// A new module whose `attribute` is a capsule called `kind` of `table`. All of them live as long
/// as the process. Throws.
inline PyObject* new_capsule_module(PyModuleDef& definition, const char* attribute, void* table,
                                    const char* kind) {
  Reference module = checked(PyModule_Create(&definition));
  const Reference capsule = checked(PyCapsule_New(table, kind, nullptr));
  if (PyModule_AddObjectRef(module.get(), attribute, capsule.get()) < 0) throw_pending();
  return module.release();
}

/// The table of such a capsule. Throws ImportError where it is of another build.
template <typename Table>
const Table* table_of(PyObject* capsule, const char* kind) {
  const auto* table = static_cast<const Table*>(PyCapsule_GetPointer(capsule, kind));
  if (table == nullptr) throw_pending();
  if (table->struct_size != sizeof(Table) || table->core != &neutral_traits()) {
    PyErr_Format(PyExc_ImportError,
                 "dlbridge: a %s of another build of dlbridge was loaded: reinstall dlbridge",
                 kind);
    throw_pending();
  }
  return table;
}

inline PyObject* new_adapter_module(PyModuleDef& definition, Adapter& adapter) {
  return new_capsule_module(definition, "adapter", &adapter, kAdapterCapsule);
}

}  // namespace dlbridge::python
