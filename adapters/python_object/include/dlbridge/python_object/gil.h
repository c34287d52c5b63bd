// SPDX-License-Identifier: Apache-2.0
// Whether the calling thread holds the GIL, and calls without it.
#pragma once

#include <Python.h>

#include <utility>

#include "dlbridge/python_object/interpreter_exit.h"

namespace dlbridge {

inline bool is_finalizing() noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

/// Whether the thread with the state `mine`, the calling one, holds the GIL. Null: it does not.
inline bool holds_gil(PyThreadState* mine) noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  return mine != nullptr && mine == PyThreadState_GetUnchecked();
#else
  return mine != nullptr && mine == _PyThreadState_UncheckedGet();
#endif
}

/// Runs `call` with the GIL released where the calling thread holds it. While the interpreter
/// finalises it stays held: no other thread takes it any more.
template <typename Call>
auto without_gil(Call&& call) noexcept {
  const bool held = holds_gil(PyGILState_GetThisThreadState()) && !is_finalizing();
  if (!held) return std::forward<Call>(call)();
  struct Release {
    ~Release() {
      parked_at_exit([this] { PyEval_RestoreThread(state); });
    }
    PyThreadState* state = PyEval_SaveThread();
  } const released;
  return std::forward<Call>(call)();
}

}  // namespace dlbridge
