// SPDX-License-Identifier: Apache-2.0
// dtype= arguments in every spelling that NumPy or torch takes.
#pragma once

#include <Python.h>

#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dlbridge/dtype.h"
#include "dlbridge/error.h"
#include "dlbridge/plan.h"
#include "support/errors.h"

namespace dlbridge::python {

/// Returns true for a torch.dtype. torch need not be loaded.
inline bool is_torch_dtype(PyObject* object) noexcept {
  return std::strcmp(Py_TYPE(object)->tp_name, "torch.dtype") == 0;
}

/// The types of DLPack for which `holds` returns true, in the order of its codes.
template <class Holds>
std::vector<DType> dtypes_where(Holds holds) {
  std::vector<DType> found;
  for (int code = 0; code <= static_cast<int>(TypeCode::float4_e2m1fn); ++code) {
    for (const int lanes : {1, 2}) {
      for (const int bits : {1, 2, 4, 6, 8, 16, 32, 64, 128}) {
        const DType dtype(static_cast<TypeCode>(code), bits, lanes);
        if (dtype.is_known() && holds(dtype)) found.push_back(dtype);
      }
    }
  }
  return found;
}

/// Refuses an argument that names no type, or one that DLPack does not have; lists what `target`
/// holds.
[[noreturn, gnu::cold]] inline void refuse_dtype(PyObject* object, bool is_type,
                                                 const TargetTraits& target) {
  std::string names;
  for (const DType dtype : dtypes_where([&](DType dtype) {
         return target.dtypes.contains(dtype) || target.dtypes_missing.contains(dtype);
       })) {
    if (!names.empty()) names += ", ";
    names += dtype.name();
  }
  refuse_argument("dtype", object, is_type || PyUnicode_Check(object),
                  "a dtype of NumPy or torch that DLPack has, or one of the names " + names,
                  ErrorCode::invalid_dtype);
}

/// The type of a name of torch, without "torch." before it; "float" is float32.
[[gnu::cold]] inline std::optional<DType> dtype_of_torch(std::string_view name) {
  constexpr std::pair<std::string_view, std::string_view> kSecondNames[] = {
      {"half", "float16"},    {"float", "float32"},    {"double", "float64"},
      {"short", "int16"},     {"int", "int32"},        {"long", "int64"},
      {"chalf", "complex32"}, {"cfloat", "complex64"}, {"cdouble", "complex128"}};
  for (const auto& [second, first] : kSecondNames) {
    if (name == second) name = first;
  }
  return DType::parse(name);
}

/// The type that `object` names. Words that both packages know mean what they mean in NumPy, unless
/// "torch." is before them. Throws Error (invalid_dtype, byte_order).
[[gnu::cold]] inline DLDataType parse_named_dtype(PyObject* object, const TargetTraits& target) {
  const bool of_torch = is_torch_dtype(object);
  const bool of_dlpack = PyTuple_Check(object) && !PyTuple_CheckExact(object);  // dlbridge.DType
  const Reference text = of_torch                  ? checked(PyObject_Str(object))
                         : PyUnicode_Check(object) ? Reference(Py_NewRef(object))
                         : of_dlpack               ? attribute_of(object, "name")
                                                   : Reference();
  const auto name = utf8_of(text.get());
  constexpr std::string_view kPrefix = "torch.";
  if (name && name->starts_with(kPrefix)) {
    if (const auto dtype = dtype_of_torch(name->substr(kPrefix.size()))) return *dtype;
    refuse_dtype(object, of_torch, target);
  }
  if (name) {  // NumPy knows those of ml_dtypes only after its import
    if (const auto dtype = DType::parse(*name)) return *dtype;
  }
  const Reference numpy = checked(PyImport_ImportModule("numpy"));
  const Reference found(PyObject_CallMethod(numpy.get(), "dtype", "(O)", object));
  if (!found) {
    clear_exception();
    if (const auto dtype = name ? dtype_of_torch(*name) : std::nullopt) return *dtype;
    refuse_dtype(object, false, target);
  }
  const Reference its_name = checked(PyObject_GetAttrString(found.get(), "name"));
  const auto in_words = utf8_of(its_name.get());
  const auto dtype = in_words ? DType::parse(*in_words) : std::nullopt;
  if (!dtype) refuse_dtype(object, true, target);
  const Reference native = checked(PyObject_GetAttrString(found.get(), "isnative"));
  if (native.get() != Py_True) {
    throw Error(ErrorCode::byte_order, "dtype",
                "dtype is " + repr_of(object) +
                    ", in foreign byte order; expected native: pass \"" + dtype->name() + "\"");
  }
  return *dtype;
}

}  // namespace dlbridge::python
