// SPDX-License-Identifier: Apache-2.0
// Allocation of Python objects of one type that the garbage collector does not track. Freed ones
// are kept for reuse, so that conversions in a loop allocate nothing. Guarded by the GIL; without a
// GIL nothing is kept.
#pragma once

#include <Python.h>

#include <array>
#include <cstddef>

namespace dlbridge {

template <typename Object>
class SpareObjects {
 public:
  /// A new reference to an object of `type` whose members are not set, or null with a Python
  /// exception set.
  static Object* allocate(PyTypeObject* type) noexcept {
#ifndef Py_GIL_DISABLED
    if (count_ > 0) [[likely]] {
      Object* object = spares_[--count_];
      PyObject_Init(as_python(object), type);
      return object;
    }
#endif
    return PyObject_New(Object, type);
  }

  /// For tp_dealloc. Requires: the members were destroyed.
  static void free(Object* object) noexcept {
#ifndef Py_GIL_DISABLED
    if (count_ < kSpares) [[likely]] {
      spares_[count_++] = object;
      return;
    }
#endif
    PyObject_Free(object);
  }

 private:
  static PyObject* as_python(Object* object) noexcept {
    return reinterpret_cast<PyObject*>(object);
  }

#ifndef Py_GIL_DISABLED
  static constexpr size_t kSpares = 64;
  static inline std::array<Object*, kSpares> spares_;
  static inline size_t count_ = 0;
#endif
};

}  // namespace dlbridge
