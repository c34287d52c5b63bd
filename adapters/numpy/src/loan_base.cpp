#include "loan_base.h"

namespace dlbridge {
namespace {

void deallocate(PyObject* self) {
  const Owner owner = reinterpret_cast<LoanBase*>(self)->owner;
  if (owner) owner.release(owner.context);
  PyObject_Free(self);
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
  auto* base = PyObject_New(LoanBase, &loan_base_type);
  if (base != nullptr) base->owner = Owner{};
  return base;
}

}  // namespace dlbridge
