#include "torch/gpu.h"

#include <cstring>
#include <string>

#include "bridge/device_module.h"
#include "dlbridge/layout.h"
#include "support/errors.h"

namespace dlbridge::python {
namespace {

// A function of dlbridge/_torch_gpu.py: looked up anew, so that tests may put another in its place.
Reference function(const char* name) {
  const Reference module(PyImport_ImportModule("dlbridge._torch_gpu"));
  Reference found(module ? PyObject_GetAttrString(module.get(), name) : nullptr);
  if (!found) throw_pending();
  return found;
}

Reference to_tuple(std::span<const int64_t> values) {
  Reference tuple(PyTuple_New(static_cast<Py_ssize_t>(values.size())));
  if (!tuple) throw_pending();
  for (size_t i = 0; i < values.size(); ++i) {
    PyObject* value = PyLong_FromLongLong(values[i]);
    if (value == nullptr) throw_pending();
    PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(i), value);
  }
  return tuple;
}

Reference checked(PyObject* result) {
  if (result == nullptr) throw_pending();
  return Reference(result);
}

}  // namespace

bool is_torch(const Adapter& adapter) noexcept {
  return std::strcmp(adapter.traits->name, "torch") == 0;
}

bool torch_can_allocate() {
  PyObject* modules = PyImport_GetModuleDict();
  if (modules == nullptr || PyDict_GetItemString(modules, "torch") == nullptr) return false;
  const Reference answer = checked(PyObject_CallNoArgs(function("has_cuda").get()));
  return PyObject_IsTrue(answer.get()) == 1;
}

intptr_t torch_current_stream(int32_t device) {
  static PyObject* raw_stream = nullptr;  // torch's own function, kept for good once there is one
  const Reference number(PyLong_FromLong(device));
  if (!number) throw_pending();
  if (raw_stream == nullptr) {
    Reference found = checked(PyObject_CallNoArgs(function("raw_stream_function").get()));
    if (found.get() != Py_None) raw_stream = found.release();
  }
  const Reference handle = checked(
      raw_stream != nullptr ? PyObject_CallOneArg(raw_stream, number.get())
                            : PyObject_CallOneArg(function("current_stream").get(), number.get()));
  const auto stream = static_cast<intptr_t>(PyLong_AsSsize_t(handle.get()));
  if (stream == -1 && PyErr_Occurred()) throw_pending();
  return stream == 0 ? kLegacyStream : stream;
}

Reference torch_device_empty(const TensorView& like, DLDataType dtype, int32_t device) {
  Loan dense;
  dense.describe(like);
  dense_strides_like(like, dense.strides());
  const Reference shape = to_tuple(like.extents());
  const Reference strides = to_tuple(dense.view().stride_elements());
  return checked(PyObject_CallFunction(function("empty").get(), "OOsi", shape.get(), strides.get(),
                                       DType(dtype).name().c_str(), static_cast<int>(device)));
}

void torch_record_stream(PyObject* tensor, int32_t device, intptr_t stream) {
  checked(PyObject_CallFunction(function("record_stream").get(), "Oin", tensor,
                                static_cast<int>(device), static_cast<Py_ssize_t>(stream)));
}

Reference torch_materialized(PyObject* tensor) {
  return checked(PyObject_CallOneArg(function("materialized").get(), tensor));
}

}  // namespace dlbridge::python
