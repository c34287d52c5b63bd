// SPDX-License-Identifier: Apache-2.0
// dtype= arguments of to_torch() that are no torch.dtype: a name, a numpy.dtype, a scalar type.
#pragma once

#include <Python.h>

#include <cstring>
#include <optional>
#include <string>

#include "dlbridge/dtype.h"
#include "dlbridge/error.h"
#include "support/errors.h"

namespace dlbridge::python {

/// Returns true for a torch.dtype. torch need not be loaded.
inline bool is_torch_dtype(PyObject* object) noexcept {
  return std::strcmp(Py_TYPE(object)->tp_name, "torch.dtype") == 0;
}

/// The name that a string, a torch.dtype, a numpy.dtype or a scalar type such as numpy.float32
/// gives, without "torch." before it; null where there is none.
inline Reference dtype_name_of(PyObject* object) {
  const bool is_text = PyUnicode_Check(object);
  Reference name(is_text                  ? Py_NewRef(object)
                 : is_torch_dtype(object) ? PyObject_Str(object)
                 : PyType_Check(object)   ? PyObject_GetAttrString(object, "__name__")
                                          : PyObject_GetAttrString(object, "name"));
  if (!name) clear_exception();
  constexpr std::string_view kPrefix = "torch.";
  const auto text = utf8_of(name.get());
  if (!text || !text->starts_with(kPrefix)) return name;
  const std::string_view rest = text->substr(kPrefix.size());
  return checked(PyUnicode_FromStringAndSize(rest.data(), static_cast<Py_ssize_t>(rest.size())));
}

/// The type that `object` names; Python's int, float, bool and complex are torch's default types.
/// Throws Error (invalid_dtype).
inline DLDataType parse_named_dtype(PyObject* object) {
  if (object == reinterpret_cast<PyObject*>(&PyLong_Type)) return DType(TypeCode::int_, 64);
  if (object == reinterpret_cast<PyObject*>(&PyFloat_Type)) return DType(TypeCode::float_, 64);
  if (object == reinterpret_cast<PyObject*>(&PyBool_Type)) return DType(TypeCode::boolean, 8);
  if (object == reinterpret_cast<PyObject*>(&PyComplex_Type)) return DType(TypeCode::complex, 128);
  const Reference name = dtype_name_of(object);
  const auto text = utf8_of(name.get());
  const auto dtype = text ? DType::parse(*text) : std::nullopt;
  if (dtype) return *dtype;
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
