// SPDX-License-Identifier: Apache-2.0
// dlbridge._torch_2_15 and its like: the Torch adapter (direct tier) in a capsule. Compiled with
// the headers of one minor version of torch and loaded with that version alone
// (dlbridge/_adapters.py); torch is imported first, so its libraries are found by name.
#include <ATen/Parallel.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include "bridge/capsule_module.h"
#include "dlbridge/copy.h"
#include "dlbridge/torch.h"
#include "support/dtype_argument.h"
#include "support/reference.h"
#include "torch/abi_probe.h"
#include "torch/device_slots.h"
#include "torch/subclasses.h"

namespace dlbridge::python {
namespace {

// Torch may run for long and take locks that a thread waiting for the GIL holds.
class GilReleased {
 public:
  GilReleased() noexcept : state_(PyEval_SaveThread()) {}
  ~GilReleased() {
    parked_at_exit([this] { PyEval_RestoreThread(state_); });
  }
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;

 private:
  PyThreadState* state_;
};

// The real type: what isinstance() answers may come from the object's __class__ (a mock, a proxy).
bool accepts(PyObject* x) noexcept {
  return PyObject_TypeCheck(x, reinterpret_cast<PyTypeObject*>(THPVariableClass));
}

Error* describe(PyObject* x, Loan* loan) noexcept {
  return guarded([&] {
    dlbridge::describe(THPVariable_Unpack(x), *loan);
    TensorView& view = loan->view();
    if (!view.reasons.empty() || view.data == nullptr) [[unlikely]]
      describe_subclass(x, view);
  });
}

Error* acquire(PyObject* x, Loan* loan) noexcept {
  return guarded([&] { dlbridge::acquire(THPVariable_Unpack(x), *loan); });
}

[[gnu::always_inline]] inline PyObject* wrap_tensor(at::Tensor&& tensor) {
  PyObject* wrapped = THPVariable_Wrap(std::move(tensor));
  if (wrapped == nullptr)
    throw Error(ErrorCode::python_exception, "", "torch could not wrap a tensor");
  return wrapped;
}

Error* reuse_storage(Loan* loan, PyObject** out) noexcept {
  return guarded([&] {
    at::Tensor tensor = reuse_storage(*loan);
    *out = tensor.defined() ? wrap_tensor(std::move(tensor)) : nullptr;
  });
}

Error* wrap(Loan* loan, PyObject** out) noexcept {
  return guarded([&] { *out = wrap_tensor(to_tensor(std::move(*loan))); });
}

Error* wrap_guarded(Loan* loan, OnWrite on_write, PyObject** out) noexcept {
  return guarded([&] { *out = wrap_tensor(to_guarded_tensor(std::move(*loan), on_write)); });
}

// What a write to a guarded tensor throws, without the GIL: torch makes the Python exception.
struct WriteRefused final : torch::PyTorchError {
  WriteRefused() : PyTorchError(kWriteRefused) {}
  PyObject* python_type() override { return type; }
  static inline PyObject* type = nullptr;  // kept for good
};

// Whether this thread is in the methods in which torch moves a storage to shared memory. Torch
// copies the memory with the GIL released and replaces it with the GIL held
// (torch/csrc/StorageSharing.cpp).
bool is_replaced() {
  if (PyGILState_Check() == 0 || PyEval_GetFrame() == nullptr) return false;
  PyCodeObject* code = PyFrame_GetCode(PyEval_GetFrame());
  const Reference owner(reinterpret_cast<PyObject*>(code));
  return PyUnicode_CompareWithASCIIString(code->co_name, "_share_fd_cpu_") == 0 ||
         PyUnicode_CompareWithASCIIString(code->co_name, "_share_filename_cpu_") == 0;
}

Error* empty(const TensorView* like, DLDataType dtype, PyObject** out, Loan* memory) noexcept {
  return guarded([&] { *out = wrap_tensor(empty_tensor(*like, dtype, *memory)); });
}

Error* finish(PyObject* made, PyObject** out) noexcept {
  return guarded([&] {
    at::Tensor finished = finish_copy(at::Tensor(THPVariable_Unpack(made)));
    if (finished.is_same(THPVariable_Unpack(made))) {
      *out = made;
      return;
    }
    *out = wrap_tensor(std::move(finished));
    Py_DECREF(made);
  });
}

Error* fill(PyObject* x, const TensorView* dst) noexcept {
  const at::Tensor tensor = THPVariable_Unpack(x);
  return guarded([&] {
    const GilReleased released;
    fill_from_tensor(tensor, *dst);
  });
}

Error* cast(const TensorView* src, const TensorView* dst) noexcept {
  return guarded([&] {
    const GilReleased released;
    cast_with_torch(*src, *dst);
  });
}

Error* parse_dtype(PyObject* object, DLDataType* out) noexcept {
  return guarded([&] {
    if (!THPDtype_Check(object)) {
      *out = parse_named_dtype(object, torch_traits());
      return;
    }
    const at::ScalarType scalar = reinterpret_cast<THPDtype*>(object)->scalar_type;
    const auto dtype = dtype_of(scalar);
    if (!dtype) refuse_dtype(object, true, torch_traits());
    *out = *dtype;
  });
}

Adapter make_adapter() noexcept {
  Adapter adapter;
  adapter.traits = &torch_traits();
  adapter.exact_types[0] = reinterpret_cast<PyTypeObject*>(THPVariableClass);
  adapter.exact_types[1] = reinterpret_cast<PyTypeObject*>(ParameterClass);
  adapter.threaded_casts = true;
  adapter.accepts = accepts;
  adapter.describe = describe;
  adapter.acquire = acquire;
  adapter.reuse_storage = reuse_storage;
  adapter.wrap = wrap;
  adapter.wrap_guarded = wrap_guarded;
  adapter.empty = empty;
  adapter.finish = finish;
  adapter.fill = fill;
  adapter.cast = cast;
  adapter.parse_dtype = parse_dtype;
  add_device_slots(adapter);
  return adapter;
}

#define DLBRIDGE_TEXT(name) #name
#define DLBRIDGE_NAME(module) DLBRIDGE_TEXT(module)
#define DLBRIDGE_INIT_OF(module) PyInit_##module
#define DLBRIDGE_INIT(module) DLBRIDGE_INIT_OF(module)

PyModuleDef g_module = {PyModuleDef_HEAD_INIT, DLBRIDGE_NAME(DLBRIDGE_TORCH_MODULE),
                        "The Torch adapter of dlbridge, direct tier.", -1};

}  // namespace
}  // namespace dlbridge::python

PyMODINIT_FUNC DLBRIDGE_INIT(DLBRIDGE_TORCH_MODULE)() {
  using namespace dlbridge::python;
  if (THPVariableClass == nullptr || ParameterClass == nullptr) {
    PyErr_SetString(PyExc_ImportError, "import torch first");
    return nullptr;
  }
  if (!layout_matches_headers()) {
    PyErr_SetString(PyExc_ImportError,
                    "the objects of this torch are not those of the headers it was built with");
    return nullptr;
  }
  dlbridge::set_default_num_threads([] { return at::get_num_threads(); });
  static Adapter adapter = make_adapter();
  return translated([] {
    WriteRefused::type = python_attribute("dlbridge._errors", "WriteRefused").release();
    dlbridge::set_write_refusal([] { throw WriteRefused(); }, is_replaced);
    return new_adapter_module(g_module, adapter);
  });
}
