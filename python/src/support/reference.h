// SPDX-License-Identifier: Apache-2.0
// Reference: a strong reference to a Python object, dropped at the end of its scope. Needs the GIL.
#pragma once

#include <Python.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

namespace dlbridge::python {

class Reference {
 public:
  Reference() noexcept = default;
  /// Owns: steals a new reference, null included.
  explicit Reference(PyObject* stolen) noexcept : object_(stolen) {}
  Reference(Reference&& other) noexcept : object_(other.release()) {}
  Reference& operator=(Reference&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  Reference(const Reference&) = delete;
  Reference& operator=(const Reference&) = delete;
  ~Reference() { Py_XDECREF(object_); }

  PyObject* get() const noexcept { return object_; }
  [[nodiscard]] PyObject* release() noexcept { return std::exchange(object_, nullptr); }
  explicit operator bool() const noexcept { return object_ != nullptr; }

 private:
  PyObject* object_ = nullptr;
};

/// Puts a pending Python exception aside while it lives: what is released meanwhile may run Python
/// code, which must neither see nor clear it (docs/reference/rules.md#44, #59). An exception that
/// this code leaves behind goes to sys.unraisablehook. Needs the GIL.
class PendingException {
 public:
  PendingException() noexcept : pending_(PyErr_Occurred() != nullptr) {
    if (pending_) PyErr_Fetch(&type_, &value_, &traceback_);
  }
  PendingException(const PendingException&) = delete;
  PendingException& operator=(const PendingException&) = delete;
  ~PendingException() {
    if (PyErr_Occurred() != nullptr) PyErr_WriteUnraisable(nullptr);
    if (pending_) PyErr_Restore(type_, value_, traceback_);
  }

 private:
  bool pending_;
  PyObject* type_ = nullptr;
  PyObject* value_ = nullptr;
  PyObject* traceback_ = nullptr;
};

/// A new tuple of Python integers, or null with a Python exception set.
inline PyObject* tuple_of(std::span<const int64_t> values) noexcept {
  Reference tuple(PyTuple_New(static_cast<Py_ssize_t>(values.size())));
  for (size_t i = 0; tuple && i < values.size(); ++i) {
    PyObject* value = PyLong_FromLongLong(values[i]);
    if (value == nullptr) return nullptr;
    PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(i), value);
  }
  return tuple.release();
}

/// A new str. Bytes that are no UTF-8, as in the name of a foreign object, are replaced. Null with
/// a Python exception set where there is no memory left.
inline PyObject* new_str(std::string_view text) noexcept {
  return PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace");
}

/// The text of a str; nothing where `object` is no str, or has no UTF-8.
inline std::optional<std::string_view> utf8_of(PyObject* object) noexcept {
  if (object == nullptr || !PyUnicode_Check(object)) return std::nullopt;
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(object, &size);
  if (text != nullptr) return std::string_view(text, static_cast<size_t>(size));
  PyErr_Clear();
  return std::nullopt;
}

}  // namespace dlbridge::python
