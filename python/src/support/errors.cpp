// SPDX-License-Identifier: Apache-2.0
#include "support/errors.h"

#include <new>

namespace dlbridge::python {
namespace {

// dlbridge._errors.ExchangeError; imported when the first error is raised, kept for good.
PyObject* exchange_error_type() noexcept {
  static PyObject* type = nullptr;
  if (type == nullptr) {
    const Reference module(PyImport_ImportModule("dlbridge._errors"));
    if (module) type = PyObject_GetAttrString(module.get(), "ExchangeError");
  }
  return type;
}

}  // namespace

void throw_pending() { throw Error(ErrorCode::python_exception, "", "a Python exception is set"); }

void throw_type_error(std::string message) {
  throw Error(ErrorCode::unsupported_type, "type", std::move(message));
}

void throw_wrong_type(const char* name, PyObject* found, const char* expected) {
  throw_type_error(std::string(name) + " is " + Py_TYPE(found)->tp_name + "; expected " + expected);
}

void refuse_argument(const char* name, PyObject* value, bool right_kind,
                     const std::string& expected, ErrorCode code) {
  const std::string text = std::string(name) + " is " + repr_of(value) + "; expected " + expected;
  if (!right_kind) throw_type_error(text);
  throw Error(code, name, text);
}

Reference attribute_of(PyObject* object, const char* name) {
  Reference value(parked_at_exit([&] { return PyObject_GetAttrString(object, name); }));
  if (!value) clear_exception();
  return value;
}

std::string text_of(PyObject* str) {
  const char* text = PyUnicode_AsUTF8(str);
  if (text == nullptr) throw_pending();
  return text;
}

std::optional<int64_t> integer_of(PyObject* object) {
  const int64_t number = PyLong_AsLongLong(object);
  if (number != -1 || !PyErr_Occurred()) return number;
  clear_exception();
  return std::nullopt;
}

std::optional<std::vector<int64_t>> integers_of(PyObject* tuple) {
  std::vector<int64_t> integers;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); ++i) {
    const auto integer = integer_of(PyTuple_GET_ITEM(tuple, i));
    if (!integer) return std::nullopt;
    integers.push_back(*integer);
  }
  return integers;
}

Reference python_attribute(const char* module, const char* name) {
  return checked(PyObject_GetAttrString(checked(PyImport_ImportModule(module)).get(), name));
}

void throw_taken(Error* error) { throw Error(*std::unique_ptr<Error>(error)); }

void clear_exception() {
  if (PyErr_Occurred() != nullptr && !PyErr_ExceptionMatches(PyExc_Exception)) throw_pending();
  PyErr_Clear();
}

std::string repr_of(PyObject* object) {
  const Reference repr(PyObject_Repr(object));
  if (!repr) clear_exception();
  const auto text = utf8_of(repr.get());
  return std::string(text ? *text : "an object");
}

Error* current_error() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return new Error(error);
  } catch (const std::bad_alloc&) {
    return new Error(ErrorCode::out_of_memory, "memory", "no memory left for the exchange");
  } catch (const std::exception& error) {
    return new Error(ErrorCode::framework_error, "framework", error.what());
  }
}

void set_exception(const Error& error) noexcept {
  // A C++ exception of a framework's may stand for a Python exception that it left set.
  const bool pending = error.code() == ErrorCode::framework_error && PyErr_Occurred();
  if (error.code() == ErrorCode::python_exception || pending) {
    if (!PyErr_Occurred())
      PyErr_SetString(PyExc_SystemError, "dlbridge: error without an exception");
    return;
  }
  PyErr_Clear();  // of a call whose failure the error describes
  const Reference message(new_str(error.what()));
  if (!message) return;
  if (error.code() == ErrorCode::unsupported_type) {
    PyErr_SetObject(PyExc_TypeError, message.get());
    return;
  }
  PyObject* type = exchange_error_type();
  if (type == nullptr) return;
  const std::string code(name(error.code()));
  const Reference field(new_str(error.field()));
  if (!field) return;
  const Reference exception(
      PyObject_CallFunction(type, "OsO", message.get(), code.c_str(), field.get()));
  if (exception) PyErr_SetObject(type, exception.get());
}

void set_current_exception() noexcept {
  const std::unique_ptr<Error> error(current_error());
  set_exception(*error);
}

}  // namespace dlbridge::python
