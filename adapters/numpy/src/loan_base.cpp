// SPDX-License-Identifier: Apache-2.0
#include "loan_base.h"

#include <array>

namespace dlbridge {
namespace {

#ifndef Py_GIL_DISABLED
// Freed objects for reuse: conversions in a loop allocate nothing. Guarded by the GIL.
constexpr size_t kSpares = 32;
std::array<LoanBase*, kSpares> g_spares;
size_t g_spare_count = 0;

LoanBase* allocate() noexcept {
  if (g_spare_count == 0) return PyObject_New(LoanBase, &loan_base_type);
  LoanBase* base = g_spares[--g_spare_count];
  PyObject_Init(reinterpret_cast<PyObject*>(base), &loan_base_type);
  return base;
}

void free_memory(PyObject* self) noexcept {
  if (g_spare_count < kSpares)
    g_spares[g_spare_count++] = reinterpret_cast<LoanBase*>(self);
  else
    PyObject_Free(self);
}
#else
LoanBase* allocate() noexcept { return PyObject_New(LoanBase, &loan_base_type); }
void free_memory(PyObject* self) noexcept { PyObject_Free(self); }
#endif

void deallocate(PyObject* self) {
  const Deleter deleter = reinterpret_cast<LoanBase*>(self)->deleter;
  if (deleter) deleter.release(deleter.context);
  free_memory(self);
}

PyTypeObject make_type() noexcept {
  PyTypeObject type = {PyVarObject_HEAD_INIT(nullptr, 0)};
  type.tp_name = "dlbridge.LoanBase";
  type.tp_basicsize = sizeof(LoanBase);
  type.tp_dealloc = deallocate;
  type.tp_flags = Py_TPFLAGS_DEFAULT;
  type.tp_doc = "Keeps the memory behind an array alive.";
  return type;
}

}  // namespace

PyTypeObject loan_base_type = make_type();

LoanBase* new_loan_base() noexcept {
  LoanBase* base = allocate();
  if (base != nullptr) {
    base->deleter = Deleter{};
    base->original = Deleter{};
  }
  return base;
}

}  // namespace dlbridge
