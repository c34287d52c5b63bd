// SPDX-License-Identifier: Apache-2.0
// dtype= arguments of to_torch() that are no torch.dtype: a name, a numpy.dtype, a scalar type.
#pragma once

#include <Python.h>

#include <optional>
#include <string>

#include "dlbridge/dtype.h"
#include "dlbridge/error.h"
#include "support/reference.h"

namespace dlbridge::python {

/// The name that a string, a numpy.dtype or a scalar type such as numpy.float32 gives. A new
/// reference or null.
inline PyObject* dtype_name_of(PyObject* object) noexcept {
  if (PyUnicode_Check(object)) return Py_NewRef(object);
  PyObject* name = PyObject_GetAttrString(object, PyType_Check(object) ? "__name__" : "name");
  if (name == nullptr) PyErr_Clear();
  return name;
}

/// The type that `object` names; Python's int, float, bool and complex are torch's default types.
/// Throws Error (invalid_dtype).
inline DLDataType parse_named_dtype(PyObject* object) {
  if (object == reinterpret_cast<PyObject*>(&PyLong_Type)) return DType(TypeCode::int_, 64);
  if (object == reinterpret_cast<PyObject*>(&PyFloat_Type)) return DType(TypeCode::float_, 64);
  if (object == reinterpret_cast<PyObject*>(&PyBool_Type)) return DType(TypeCode::boolean, 8);
  if (object == reinterpret_cast<PyObject*>(&PyComplex_Type)) return DType(TypeCode::complex, 128);
  const Reference name(dtype_name_of(object));
  const char* text = name && PyUnicode_Check(name.get()) ? PyUnicode_AsUTF8(name.get()) : nullptr;
  if (text != nullptr && std::string_view(text).starts_with("torch.")) text += 6;
  const auto dtype = text ? DType::parse(text) : std::nullopt;
  if (dtype) return *dtype;
  PyErr_Clear();
  throw Error(
      ErrorCode::invalid_dtype, "dtype",
      "dtype is " + repr_of(object) +
          ", which names no type; expected a torch.dtype or its name, such as torch.float32");
}

/// Refuses a torch.dtype that DLPack does not have.
[[noreturn]] inline void refuse_torch_dtype(const std::string& name) {
  throw Error(
      ErrorCode::invalid_dtype, "dtype",
      "dtype is " + name + ", which DLPack does not have; expected one such as torch.float32");
}

}  // namespace dlbridge::python
