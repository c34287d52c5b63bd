#include "support/errors.h"

#include <cstdarg>
#include <string>

#include "support/reference.h"

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

PyObject* raise(const Error& error) noexcept {
  // A C++ exception of a framework's may stand for a Python exception that it left set.
  const bool left_behind = error.code() == ErrorCode::framework_error && PyErr_Occurred();
  if (error.code() == ErrorCode::python_exception || left_behind) {
    if (!PyErr_Occurred())
      PyErr_SetString(PyExc_SystemError, "dlbridge: error without an exception");
    return nullptr;
  }
  if (error.code() == ErrorCode::unsupported_type) {
    PyErr_SetString(PyExc_TypeError, error.what());
    return nullptr;
  }
  PyObject* type = exchange_error_type();
  if (type == nullptr) return nullptr;
  const std::string code(name(error.code()));
  const Reference exception(
      PyObject_CallFunction(type, "sss", error.what(), code.c_str(), error.field().c_str()));
  if (exception) PyErr_SetObject(type, exception.get());
  return nullptr;
}

PyObject* raise(Error* error) noexcept {
  const Failure owned(error);
  return raise(*owned);
}

PyObject* raise_type_error(const char* format, ...) noexcept {
  va_list arguments;
  va_start(arguments, format);
  PyErr_FormatV(PyExc_TypeError, format, arguments);
  va_end(arguments);
  return nullptr;
}

}  // namespace dlbridge::python
