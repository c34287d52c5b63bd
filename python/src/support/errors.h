// SPDX-License-Identifier: Apache-2.0
// One error convention: code inside the extension modules throws dlbridge::Error, and each entry
// point (a PyCFunction, a type slot) translates once. nanobind's functions are translated by a
// registered exception translator. `Error*` is the form in which an error crosses between extension
// modules, in the two tables of bridge/.
#pragma once

#include <Python.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dlbridge/error.h"
#include "dlbridge/python_object/interpreter_exit.h"
#include "support/reference.h"

namespace dlbridge::python {

/// Throws the Error that stands for the Python exception which is set.
[[noreturn]] void throw_pending();

/// Throws the Error that becomes a TypeError.
[[noreturn]] void throw_type_error(std::string message);

/// The same for an argument: "NAME is TYPE; expected EXPECTED".
[[noreturn]] void throw_wrong_type(const char* name, PyObject* found, const char* expected);

/// Refuses an argument, "NAME is VALUE; expected EXPECTED": an object of the right kind by an
/// ExchangeError, another one by a TypeError.
[[noreturn]] void refuse_argument(const char* name, PyObject* value, bool right_kind,
                                  const std::string& expected,
                                  ErrorCode code = ErrorCode::invalid_argument);

/// Clears the exception of a call that may fail. Throws it where it is no Exception: what ends a
/// program (KeyboardInterrupt, SystemExit) passes through.
void clear_exception();

/// repr(object) as text, for error messages; "an object" where it has none.
std::string repr_of(PyObject* object);

/// Owns a new reference. Throws the pending Python exception where it is null.
inline Reference checked(PyObject* result) {
  if (result == nullptr) throw_pending();
  return Reference(result);
}

/// An attribute; null where it cannot be read. Throws as clear_exception() does.
Reference attribute_of(PyObject* object, const char* name);

/// The text of a str. Throws where it has no UTF-8.
std::string text_of(PyObject* str);

/// The integer that an object is; nothing where it is none or has more than 64 bits. Throws as
/// clear_exception() does.
std::optional<int64_t> integer_of(PyObject* object);

/// The integers of a tuple; nothing where one item is none.
std::optional<std::vector<int64_t>> integers_of(PyObject* tuple);

/// An attribute of a Python module, which is imported if need be. Throws what that raises.
Reference python_attribute(const char* module, const char* name);

/// Calls a function of a Python module. `format` is that of Py_BuildValue for the tuple of the
/// arguments, such as "(Oi)". Throws what the function raises.
template <typename... Arguments>
Reference call_python(const char* module, const char* function, const char* format,
                      Arguments... arguments) {
  const Reference called = python_attribute(module, function);
  return checked(
      parked_at_exit([&] { return PyObject_CallFunction(called.get(), format, arguments...); }));
}

/// Throws an Error that crossed a module boundary, if there is one; takes it.
[[noreturn]] void throw_taken(Error* error);
[[gnu::always_inline]] inline void check(Error* error) {
  if (error != nullptr) [[unlikely]]
    throw_taken(error);
}

/// The exception that is being handled, as an Error that the caller owns. Requires: called from a
/// catch block.
Error* current_error() noexcept;

/// Runs `body` and returns what it throws as an Error that the caller owns, or null: for functions
/// that another extension module calls. A thread that the interpreter ends in `body` is parked
/// (interpreter_exit.h).
template <typename Body>
Error* guarded(Body&& body) noexcept {
  try {
    parked_at_exit(std::forward<Body>(body));
    return nullptr;
  } catch (...) {
    return current_error();
  }
}

/// Sets the Python exception for `error`: TypeError for unsupported_type, the one that is already
/// set for python_exception, dlbridge.ExchangeError for the rest.
void set_exception(const Error& error) noexcept;

/// Sets the Python exception for the C++ exception that is being handled. Requires: called from a
/// catch block.
void set_current_exception() noexcept;

/// Runs `body`, which returns a new reference, and returns its result; where it throws, sets the
/// Python exception and returns null. For entry points that Python calls.
template <typename Body>
[[gnu::always_inline]] inline PyObject* translated(Body&& body) noexcept {
  try {
    return parked_at_exit(std::forward<Body>(body));
  } catch (...) {
    set_current_exception();
    return nullptr;
  }
}

/// The same for entry points that report by 0 and -1.
template <typename Body>
int translated_status(Body&& body) noexcept {
  try {
    parked_at_exit(std::forward<Body>(body));
    return 0;
  } catch (...) {
    set_current_exception();
    return -1;
  }
}

}  // namespace dlbridge::python
