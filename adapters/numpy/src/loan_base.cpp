// SPDX-License-Identifier: Apache-2.0
#include "loan_base.h"

#include "dlbridge/python_object/hold.h"
#include "dlbridge/python_object/spare_objects.h"

namespace dlbridge {
namespace {

using Allocation = SpareObjects<LoanBase>;

void deallocate(PyObject* self) {
  auto* base = reinterpret_cast<LoanBase*>(self);
  release_with_gil(base->deleter);
  Allocation::free(base);
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

LoanBase* new_loan_base() noexcept { return Allocation::allocate(&loan_base_type); }

}  // namespace dlbridge
