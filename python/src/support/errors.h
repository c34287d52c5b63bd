// dlbridge::Error -> Python exceptions.
#pragma once

#include <Python.h>

#include "bridge/adapter.h"

namespace dlbridge::python {

/// Sets the Python exception for `error` (TypeError for unsupported_type, what is already set for
/// python_exception, dlbridge.ExchangeError for the rest). Returns null, so that callers can return
/// it.
PyObject* raise(const Error& error) noexcept;

/// The same for an Error that crossed a module boundary; takes it.
PyObject* raise(Error* error) noexcept;

/// Throws the Error that stands for the Python exception which is set: raise() leaves that as it
/// is.
[[noreturn]] void throw_pending();

/// TypeError with a formatted message. Returns null.
PyObject* raise_type_error(const char* format, ...) noexcept;

}  // namespace dlbridge::python
