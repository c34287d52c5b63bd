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
  /// A new reference to an object of `type`, always the same one, whose members are not set, or
  /// null with a Python exception set.
  static Object* allocate(PyTypeObject* type) noexcept {
#ifndef Py_GIL_DISABLED
    if (count_ > 0) [[likely]] {
      Object* object = spares_[--count_];
#ifdef Py_REF_DEBUG
      _Py_NewReference(reinterpret_cast<PyObject*>(object));
#else
      Py_SET_REFCNT(reinterpret_cast<PyObject*>(object), 1);
#endif
      return object;
    }
#endif
    return PyObject_New(Object, type);
  }

  /// For tp_dealloc. A kept object keeps its reference to its type, too. Requires: the members were
  /// destroyed.
  static void free(Object* object) noexcept {
#ifndef Py_GIL_DISABLED
    if (count_ < kSpares) [[likely]] {
      spares_[count_++] = object;
      return;
    }
#endif
    free_memory(object);
  }

 private:
  [[gnu::noinline]] static void free_memory(Object* object) noexcept {
    PyTypeObject* type = Py_TYPE(reinterpret_cast<PyObject*>(object));
    PyObject_Free(object);
    if ((type->tp_flags & Py_TPFLAGS_HEAPTYPE) != 0) Py_DECREF(type);
  }

#ifndef Py_GIL_DISABLED
  static constexpr size_t kSpares = 64;
  static inline std::array<Object*, kSpares> spares_;
  static inline size_t count_ = 0;
#endif
};

}  // namespace dlbridge
