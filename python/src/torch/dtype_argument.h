// SPDX-License-Identifier: Apache-2.0
// dtype= arguments of to_torch() that are no torch.dtype: a name, a numpy.dtype, a scalar type.
#pragma once

#include <Python.h>

#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

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
  std::string_view rest = text->substr(kPrefix.size());
  // torch's second names, of which NumPy has some for other types.
  constexpr std::pair<std::string_view, std::string_view> kSecondNames[] = {
      {"half", "float16"},    {"float", "float32"},    {"double", "float64"},
      {"short", "int16"},     {"int", "int32"},        {"long", "int64"},
      {"chalf", "complex32"}, {"cfloat", "complex64"}, {"cdouble", "complex128"}};
  for (const auto& [second, first] : kSecondNames) {
    if (rest == second) rest = first;
  }
  return checked(PyUnicode_FromStringAndSize(rest.data(), static_cast<Py_ssize_t>(rest.size())));
}

/// The type that NumPy gives to a text such as "f4" or "half"; nothing where it has none, or one of
/// foreign byte order.
inline std::optional<DType> dtype_of_numpy(PyObject* text) {
  const Reference numpy = checked(PyImport_ImportModule("numpy"));
  const Reference found(PyObject_CallMethod(numpy.get(), "dtype", "(O)", text));
  const Reference native(found ? PyObject_GetAttrString(found.get(), "isnative") : nullptr);
  const Reference name(found ? PyObject_GetAttrString(found.get(), "name") : nullptr);
  if (!native || !name) clear_exception();
  const auto named = native.get() == Py_True ? utf8_of(name.get()) : std::nullopt;
  return named ? DType::parse(*named) : std::nullopt;
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
  auto dtype = text ? DType::parse(*text) : std::nullopt;
  if (!dtype && PyUnicode_Check(object)) dtype = dtype_of_numpy(name.get());
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
