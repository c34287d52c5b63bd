// SPDX-License-Identifier: Apache-2.0
#include "torch/device_slots.h"

#include <string>

#include "bridge/device_module.h"
#include "dlbridge/layout.h"

namespace dlbridge::python {
namespace {

// Its functions are looked up at each call, so that tests may replace them.
constexpr const char* kModule = "dlbridge._torch_gpu";

Error* current_stream(PyObject*, int32_t device, intptr_t* out) noexcept {
  return guarded([&] {
    static PyObject* raw_stream = nullptr;  // torch's own function, kept once there is one
    if (raw_stream == nullptr) {
      Reference found = call_python(kModule, "raw_stream_function", "()");
      if (found.get() != Py_None) raw_stream = found.release();
    }
    const Reference handle = raw_stream != nullptr
                                 ? checked(PyObject_CallFunction(raw_stream, "i", device))
                                 : call_python(kModule, "current_stream", "(i)", device);
    const auto stream = static_cast<intptr_t>(PyLong_AsSsize_t(handle.get()));
    if (stream == -1 && PyErr_Occurred()) throw_pending();
    *out = stream == 0 ? kLegacyStream : stream;
  });
}

bool has_device() noexcept {
  bool found = false;
  delete guarded(
      [&] { found = PyObject_IsTrue(call_python(kModule, "has_cuda", "()").get()) == 1; });
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
    *out = call_python(kModule, "empty", "(OOsi)", shape.get(), strides.get(),
                       DType(dtype).name().c_str(), device)
               .release();
  });
}

Error* record_stream(PyObject* tensor, int32_t device, intptr_t stream) noexcept {
  return guarded([&] { call_python(kModule, "record_stream", "(Oin)", tensor, device, stream); });
}

Error* materialize(PyObject* tensor, PyObject** out) noexcept {
  return guarded([&] { *out = call_python(kModule, "materialized", "(O)", tensor).release(); });
}

Error* piece(PyObject* bytes, const TensorView* like, int64_t offset, PyObject** out) noexcept {
  return guarded([&] {
    const Reference shape = checked(tuple_of(like->extents()));
    const Reference strides = checked(tuple_of(like->stride_elements()));
    *out = call_python(kModule, "piece", "(OLsOO)", bytes, static_cast<long long>(offset),
                       DType(like->dtype).name().c_str(), shape.get(), strides.get())
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
