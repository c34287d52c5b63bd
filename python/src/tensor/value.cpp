// SPDX-License-Identifier: Apache-2.0
#include "tensor/value.h"

#include <nanobind/nanobind.h>

#include "bridge/registry.h"
#include "dlbridge/copy.h"

namespace nb = nanobind;

namespace dlbridge::python {
namespace {

bool accepts(PyObject* x) noexcept { return nb::isinstance<Tensor>(nb::handle(x)); }

Error* describe(PyObject* x, Loan* loan) noexcept {
  return guarded([&] {
    const Tensor& tensor = unpack_tensor(x);
    loan->describe(tensor.memory.view());
    loan->original = tensor.memory.original();
  });
}

Error* acquire(PyObject* x, Loan* loan) noexcept {
  loan->attach(unpack_tensor(x).memory.reference());
  return nullptr;
}

// A new reference. Throws Error (python_exception) where Python cannot make the object.
PyObject* new_handle(Loan&& loan) {
  try {
    return nb::cast(Tensor{SharedLoan(std::move(loan)), 0}).release().ptr();
  } catch (nb::python_error& error) {
    error.restore();
    throw_pending();
  }
}

Error* wrap(Loan* loan, PyObject** out) noexcept {
  return guarded([&] { *out = new_handle(std::move(*loan)); });
}

Error* empty(const TensorView* like, DLDataType dtype, PyObject** out, Loan* memory) noexcept {
  return guarded([&] {
    TensorView shape = *like;
    shape.dtype = dtype;
    Loan loan = allocate_like(shape);
    memory->describe(loan.view());
    *out = new_handle(std::move(loan));
  });
}

Error* current_stream(PyObject* x, int32_t, intptr_t* out) noexcept {
  *out = x == nullptr ? 0 : unpack_tensor(x).stream;
  return nullptr;
}

void set_stream(PyObject* x, intptr_t stream) noexcept {
  nb::inst_ptr<Tensor>(nb::handle(x))->stream = stream;
}

Adapter g_adapter = [] {
  Adapter adapter;
  adapter.traits = &neutral_traits();
  adapter.accepts = accepts;
  adapter.describe = describe;
  adapter.acquire = acquire;
  adapter.wrap = wrap;
  adapter.empty = empty;
  adapter.current_stream = current_stream;
  adapter.set_stream = set_stream;
  return adapter;
}();

}  // namespace

const Tensor& unpack_tensor(PyObject* x) noexcept { return *nb::inst_ptr<Tensor>(nb::handle(x)); }

const Adapter& tensor_adapter() noexcept { return g_adapter; }

void register_tensor_adapter(PyTypeObject* type) {
  g_adapter.exact_types[0] = type;
  add_adapter(&g_adapter);
}

}  // namespace dlbridge::python
