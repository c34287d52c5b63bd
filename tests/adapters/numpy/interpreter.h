// SPDX-License-Identifier: Apache-2.0
// The embedded interpreter of these tests, and short ways to make and ask about Python objects.
// Everything here needs the GIL, which the main thread holds while a test runs unless the test
// gives it up.
#pragma once

#include <Python.h>

#include <string>
#include <utility>

namespace dlbridge::test {

/// A new reference that is dropped at the end of the scope.
class Ref {
 public:
  Ref() = default;
  explicit Ref(PyObject* stolen) : object_(stolen) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() { Py_XDECREF(object_); }

  PyObject* get() const { return object_; }
  explicit operator bool() const { return object_ != nullptr; }
  void drop() { Py_CLEAR(object_); }

 private:
  PyObject* object_ = nullptr;
};

/// The value of a Python expression in which `np` is numpy and `x` is what was passed. Prints the
/// exception and fails the test where there is one.
Ref eval(const std::string& expression, PyObject* x = nullptr);

/// Whether a Python expression is true.
bool holds(const std::string& expression, PyObject* x = nullptr);

/// Gives the GIL up for a scope.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() { PyEval_RestoreThread(state_); }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

/// Lets the interpreter run what is queued for it.
void run_pending_calls();

}  // namespace dlbridge::test
