// SPDX-License-Identifier: Apache-2.0
#include "torch/device_slots.h"

#include <string>

#include "bridge/device_module.h"
#include "dlbridge/layout.h"

namespace dlbridge::python {
namespace {

// A function of dlbridge/_torch_gpu.py: looked up at each call, so that tests may replace it.
Reference function(const char* name) {
  const Reference module = checked(PyImport_ImportModule("dlbridge._torch_gpu"));
  return checked(PyObject_GetAttrString(module.get(), name));
}

Error* current_stream(PyObject*, int32_t device, intptr_t* out) noexcept {
  return guarded([&] {
    static PyObject* raw_stream = nullptr;  // torch's own function, kept once there is one
    const Reference number = checked(PyLong_FromLong(device));
    if (raw_stream == nullptr) {
      Reference found = checked(PyObject_CallNoArgs(function("raw_stream_function").get()));
      if (found.get() != Py_None) raw_stream = found.release();
    }
    const Reference handle =
        checked(raw_stream != nullptr
                    ? PyObject_CallOneArg(raw_stream, number.get())
                    : PyObject_CallOneArg(function("current_stream").get(), number.get()));
    const auto stream = static_cast<intptr_t>(PyLong_AsSsize_t(handle.get()));
    if (stream == -1 && PyErr_Occurred()) throw_pending();
    *out = stream == 0 ? kLegacyStream : stream;
  });
}

bool has_device() noexcept {
  bool found = false;
  delete guarded([&] {
    const Reference answer = checked(PyObject_CallNoArgs(function("has_cuda").get()));
    found = PyObject_IsTrue(answer.get()) == 1;
  });
  PyErr_Clear();
  return found;
}

Error* device_empty(const TensorView* like, DLDataType dtype, int32_t device,
                    PyObject** out) noexcept {
  return guarded([&] {
    Loan dense;
    dense.describe(*like);
    dense_strides_like(*like, dense.strides());
    const Reference shape = checked(tuple_of(like->extents()));
    const Reference strides = checked(tuple_of(dense.view().stride_elements()));
    *out =
        checked(PyObject_CallFunction(function("empty").get(), "OOsi", shape.get(), strides.get(),
                                      DType(dtype).name().c_str(), static_cast<int>(device)))
            .release();
  });
}

Error* record_stream(PyObject* tensor, int32_t device, intptr_t stream) noexcept {
  return guarded([&] {
    checked(PyObject_CallFunction(function("record_stream").get(), "Oin", tensor,
                                  static_cast<int>(device), static_cast<Py_ssize_t>(stream)));
  });
}

Error* materialize(PyObject* tensor, PyObject** out) noexcept {
  return guarded([&] {
    *out = checked(PyObject_CallOneArg(function("materialized").get(), tensor)).release();
  });
}

Error* piece(PyObject* bytes, const TensorView* like, int64_t offset, PyObject** out) noexcept {
  return guarded([&] {
    const Reference shape = checked(tuple_of(like->extents()));
    const Reference strides = checked(tuple_of(like->stride_elements()));
    *out = checked(PyObject_CallFunction(
                       function("piece").get(), "OLsOO", bytes, static_cast<long long>(offset),
                       DType(like->dtype).name().c_str(), shape.get(), strides.get()))
               .release();
  });
}

}  // namespace

void add_device_slots(Adapter& adapter) noexcept {
  adapter.current_stream = current_stream;
  adapter.has_device = has_device;
  adapter.device_empty = device_empty;
  adapter.record_stream = record_stream;
  adapter.materialize = materialize;
  adapter.piece = piece;
}

}  // namespace dlbridge::python
