// SPDX-License-Identifier: Apache-2.0
#include "tensor/value.h"

#include <atomic>
#include <memory>

#include "bridge/registry.h"
#include "dlbridge/copy.h"
#include "dlbridge/python_object/hold.h"
#include "dlbridge/python_object/spare_objects.h"

namespace dlbridge::python {
namespace {

using Allocation = SpareObjects<Tensor>;

// The deleter of a handle's memory and the number of its references.
struct Counted {
  std::atomic<int64_t> references{1};
  Deleter deleter;

  static void drop(void* context) noexcept {
    auto* counted = static_cast<Counted*>(context);
    if (counted->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    const Deleter deleter = counted->deleter;
    delete counted;
    deleter.release(deleter.context);
  }
};

bool accepts(PyObject* x) noexcept { return Py_TYPE(x) == tensor_type; }

Error* describe(PyObject* x, Loan* loan) noexcept {
  return guarded([&] {
    const Tensor& tensor = unpack_tensor(x);
    loan->describe(tensor.view());
    loan->original = tensor.original();
  });
}

Error* acquire(PyObject* x, Loan* loan) noexcept {
  return guarded([&] { loan->attach(unpack_tensor(x).reference()); });
}

Error* wrap(Loan* loan, PyObject** out) noexcept {
  return guarded([&] { *out = new_tensor(std::move(*loan)); });
}

Error* empty(const TensorView* like, DLDataType dtype, PyObject** out, Loan* memory) noexcept {
  return guarded([&] {
    TensorView shape = *like;
    shape.dtype = dtype;
    Loan loan = allocate_like(shape);
    memory->describe(loan.view());
    *out = new_tensor(std::move(loan));
  });
}

Error* current_stream(PyObject* x, int32_t, intptr_t* out) noexcept {
  *out = x == nullptr ? 0 : unpack_tensor(x).stream;
  return nullptr;
}

void set_stream(PyObject* x, intptr_t stream) noexcept { unpack_tensor(x).stream = stream; }

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

PyTypeObject* tensor_type = nullptr;

void deallocate_tensor(PyObject* self) {
  Tensor& tensor = unpack_tensor(self);
  release_with_gil(tensor.loan.release_deleter());
  std::destroy_at(&tensor.loan);
  Allocation::free(&tensor);
}

void register_tensor_adapter() {
  g_adapter.exact_types[0] = tensor_type;
  add_adapter(&g_adapter);
}

PyObject* new_tensor(Loan&& loan) {
  Tensor* tensor = Allocation::allocate(tensor_type);
  if (tensor == nullptr) throw_pending();
  std::construct_at(&tensor->loan, std::move(loan));
  tensor->stream = 0;
  return tensor;
}

PyObject* share_as_tensor(PyObject* x) {
  static RecentType recent{&kNoType};
  const Adapter* adapter = adapter_by_type(Py_TYPE(x), recent);
  if (adapter == nullptr) return nullptr;
  Tensor* tensor = Allocation::allocate(tensor_type);
  if (tensor == nullptr) throw_pending();
  Loan& loan = *std::construct_at(&tensor->loan);
  tensor->stream = 0;
  Reference made(tensor);
  check(adapter->describe(x, &loan));
  if (loan.view().device.device_type != kDLCPU || !shares_plainly(loan.view(), *g_adapter.traits))
    return nullptr;
  check(adapter->acquire(x, &loan));
  return made.release();
}

Deleter Tensor::reference() {
  if (!loan.owns_memory()) return {};
  if (loan.deleter().release != Counted::drop) {
    auto* counted = new Counted;
    loan.original = original();
    counted->deleter = loan.release_deleter();
    loan.attach({counted, Counted::drop});
  }
  auto* counted = static_cast<Counted*>(loan.deleter().context);
  counted->references.fetch_add(1, std::memory_order_relaxed);
  return loan.deleter();
}

Loan Tensor::share() {
  Loan shared;
  shared.describe(view());
  shared.attach(reference());
  shared.original = original();
  return shared;
}

Tensor& expect_tensor(PyObject* x) {
  if (x != nullptr && accepts(x)) return unpack_tensor(x);
  throw_type_error(std::string("x is ") + (x == nullptr ? "null" : Py_TYPE(x)->tp_name) +
                   "; expected a dlbridge.Tensor");
}

const Adapter& tensor_adapter() noexcept { return g_adapter; }

}  // namespace dlbridge::python
