#include "source.h"

#include "capsule.h"
#include "errors.h"
#include "exchange_table.h"
#include "registry.h"

namespace dlbridge::python {

bool Source::open(PyObject* x) noexcept {
  object_ = x;
  adapter_ = adapter_by_type(Py_TYPE(x));
  if (adapter_ != nullptr) [[likely]]
    return describe();
  adapter_ = adapter_for(x);
  if (adapter_ != nullptr) return describe();
  if (PyErr_Occurred()) return false;
  adapter_ = &capsule_adapter();
  if (is_capsule(x)) return describe();
  if (const DLPackExchangeAPI* table = exchange_table_of(Py_TYPE(x))) {
    adapter_ = &exchange_adapter();
    return take_through_table(*table, x, loan_);
  }
  capsule_ = call_dlpack(x);
  if (!capsule_) return false;
  object_ = capsule_.get();
  if (!describe()) return false;
  if (loan_.view().access != Access::read_only && is_immutable_producer(Py_TYPE(x)))
    loan_.view().access = Access::read_only;
  return true;
}

bool Source::describe() noexcept {
  if (Error* error = adapter_->describe(object_, &loan_)) [[unlikely]] {
    raise(error);
    return false;
  }
  return true;
}

bool Source::lend() noexcept {
  if (Error* error = adapter_->lend(object_, &loan_)) [[unlikely]] {
    raise(error);
    return false;
  }
  return true;
}

}  // namespace dlbridge::python
