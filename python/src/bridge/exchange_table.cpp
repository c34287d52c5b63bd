// SPDX-License-Identifier: Apache-2.0
#include "bridge/exchange_table.h"

#include <dlpack/dlpack.h>

#include "dlbridge/dlpack.h"
#include "support/reference.h"

namespace dlbridge::python {
namespace {

// The attribute in the type's own dictionary, or null. A new reference.
Reference own_attribute(PyTypeObject* type) noexcept {
  static PyObject* const name = PyUnicode_InternFromString(kExchangeTableAttribute);
#if PY_VERSION_HEX >= 0x030C0000
  const Reference dict(PyType_GetDict(type));
  PyObject* names = dict.get();
#else
  PyObject* names = type->tp_dict;
#endif
  PyObject* found = names && name ? PyDict_GetItemWithError(names, name) : nullptr;
  if (found == nullptr) PyErr_Clear();
  return Reference(Py_XNewRef(found));
}

// The first table of a major version that is known, along the chain of older ones. A chain that
// does not end is left.
const DLPackExchangeAPI* known_version(const DLPackExchangeAPIHeader* header) noexcept {
  for (int steps = 0; header != nullptr && steps < 16; ++steps, header = header->prev_api) {
    if (header->version.major == kDLPackMajor)
      return reinterpret_cast<const DLPackExchangeAPI*>(header);
  }
  return nullptr;
}

}  // namespace

const DLPackExchangeAPI* exchange_table_of(PyTypeObject* type) noexcept {
  const Reference capsule = own_attribute(type);
  if (!capsule || !PyCapsule_IsValid(capsule.get(), kExchangeTableCapsule)) return nullptr;
  const auto* header = static_cast<const DLPackExchangeAPIHeader*>(
      PyCapsule_GetPointer(capsule.get(), kExchangeTableCapsule));
  const DLPackExchangeAPI* table = known_version(header);
  return table && table->managed_tensor_from_py_object_no_sync ? table : nullptr;
}

}  // namespace dlbridge::python
