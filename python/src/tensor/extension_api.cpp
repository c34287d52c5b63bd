// SPDX-License-Identifier: Apache-2.0
// The capsule for extension modules: what dlbridge/python.h calls.
#include <string>

#include "bridge/device_module.h"
#include "bridge/registry.h"
#include "convert/convert.h"
#include "dlbridge/python.h"
#include "gpu/streams.h"
#include "sources/capsule.h"
#include "tensor/exports.h"
#include "tensor/value.h"

namespace dlbridge::python {
namespace {

// A fresh handle, whose elements on a device are valid for the legacy stream.
Reference handle_for_extension(PyObject* x) {
  Reference handle = checked(handle_of(x));
  if (Py_TYPE(handle.get()) != tensor_type)  // of a container, whose leaves were converted
    throw_wrong_type("x", x, "one array: pass its elements one by one");
  const Tensor& tensor = unpack_tensor(handle.get());
  order_export(Py_None, tensor.view(), tensor.stream, tensor.loan);
  return handle;
}

int is_array(PyObject* x) noexcept {
  int found = 0;
  const int failed = translated_status(
      [&] { found = adapter_for(x) != nullptr || is_capsule(x) || dlpack_method_of(x) ? 1 : 0; });
  return failed != 0 ? -1 : found;
}

int share(PyObject* x, Loan* loan) noexcept {
  return translated_status(
      [&] { *loan = std::move(unpack_tensor(handle_for_extension(x).get()).loan); });
}

PyObject* borrow(PyObject* x, const TensorView** view) noexcept {
  return translated([&] {
    Reference handle = handle_for_extension(x);
    *view = &unpack_tensor(handle.get()).view();
    return handle.release();
  });
}

PyObject* to_object(Loan* loan, PyObject* like) noexcept {
  return translated([&] {
    const Adapter* target = like != nullptr ? adapter_for(like) : nullptr;
    call_deleter_without_gil(*loan);
    Reference handle(new_tensor(std::move(*loan)));
    if (target == nullptr || target == &tensor_adapter()) return handle.release();
    return convert(handle.get(), *target);
  });
}

constinit const detail::ExtensionApi g_api = {
    .is_array = is_array,
    .share = share,
    .borrow = borrow,
    .to_object = to_object,
    .set_exception = [](const Error* error) noexcept { set_exception(*error); },
};

}  // namespace

void bind_extension_api(PyObject* module) {
  const Reference capsule = checked(
      PyCapsule_New(const_cast<detail::ExtensionApi*>(&g_api), detail::kExtensionApiName, nullptr));
  if (PyModule_AddObjectRef(module, "_extension_api", capsule.get()) < 0) throw_pending();
}

}  // namespace dlbridge::python
