// SPDX-License-Identifier: Apache-2.0
#include "gpu/streams.h"

#include <string>

#include "bridge/registry.h"
#include "dlbridge/managed_tensor.h"
#include "support/errors.h"

namespace dlbridge::python {
namespace {

// The handle that a number is.
intptr_t handle_of(PyObject* number) {
  const auto handle = integer_of(number);
  if (handle && *handle != 0 && *handle >= kNoSync) return *handle;
  refuse_argument("stream", number, true,
                  "1 for the legacy stream, 2 for the per-thread one, -1 for no ordering, or a "
                  "stream's handle",
                  ErrorCode::stream_invalid);
}

// The same for one that a framework's object has: frameworks write 0 for the legacy stream.
intptr_t handle_of_object(PyObject* number) {
  return integer_of(number) == 0 ? kLegacyStream : handle_of(number);
}

// The attribute as a number.
std::optional<intptr_t> handle_attribute(PyObject* object, const char* name) {
  Reference value = attribute_of(object, name);
  if (!value) return std::nullopt;
  if (!PyLong_Check(value.get())) {  // numba's is a ctypes pointer
    value = attribute_of(value.get(), "value");
    if (value && value.get() == Py_None) return kLegacyStream;
    if (!value || !PyLong_Check(value.get())) return std::nullopt;
  }
  return handle_of_object(value.get());
}

// The CUDA stream protocol: a pair of a version and the handle.
std::optional<intptr_t> handle_by_protocol(PyObject* object) {
  const Reference method = attribute_of(object, "__cuda_stream__");
  if (!method) return std::nullopt;
  const Reference pair = checked(PyCallable_Check(method.get()) ? PyObject_CallNoArgs(method.get())
                                                                : Py_NewRef(method.get()));
  if (!PyTuple_Check(pair.get()) || PyTuple_GET_SIZE(pair.get()) != 2 ||
      !PyLong_Check(PyTuple_GET_ITEM(pair.get(), 1))) {
    return std::nullopt;
  }
  return handle_of_object(PyTuple_GET_ITEM(pair.get(), 1));
}

// The allocator of the framework whose memory this is does not reuse it before the work of `stream`
// has run.
void record_with_framework(const TensorView& view, const Loan& loan, intptr_t stream) {
  if (!loan.original) return;
  for (const Adapter* adapter : adapters()) {
    if (adapter->reuse_storage == nullptr || adapter->record_stream == nullptr) continue;
    Loan looked_up;
    looked_up.describe(view);
    looked_up.original = loan.original;
    PyObject* object = nullptr;
    check(adapter->reuse_storage(&looked_up, &object));
    const Reference held(object);
    if (object != nullptr)
      return check(adapter->record_stream(object, view.device.device_id, stream));
  }
}

}  // namespace

std::optional<intptr_t> parse_stream(PyObject* stream) {
  if (stream == nullptr || stream == Py_None) return std::nullopt;
  if (PyLong_Check(stream)) return handle_of(stream);
  if (const auto handle = handle_by_protocol(stream)) return handle;
  for (const char* name : {"cuda_stream", "ptr", "handle"}) {
    if (const auto handle = handle_attribute(stream, name)) return handle;
  }
  throw_wrong_type("stream", stream,
                   "None, an integer, or a stream of torch, CuPy, numba or any object with "
                   "__cuda_stream__");
}

intptr_t order_for(const Source& source, const Adapter& target) {
  const TensorView& view = source.view();
  if (!Device(view.device).is_cuda()) return 0;
  const intptr_t earlier = source.stream();
  if (target.device_empty == nullptr) return earlier;
  intptr_t later = 0;
  check(target.current_stream(nullptr, view.device.device_id, &later));
  const bool own = source.adapter().traits == target.traits;
  const DeviceModule* module = own ? usable_device_module() : &require_device_module();
  if (module == nullptr || view.is_empty()) return later;
  check(module->order(view.device.device_id, earlier, later));
  const Deleter deleter = source.loan().original ? source.loan().original : source.loan().deleter();
  module->record_deleter(&deleter, view.device.device_id, later);
  return later;
}

void order_export(PyObject* stream, const TensorView& view, intptr_t own, const Loan& loan) {
  if (stream != Py_None && !PyLong_Check(stream))
    throw_wrong_type("stream", stream, "an integer or None");
  if (!Device(view.device).is_cuda()) {
    if (stream == Py_None || !Device(view.device).is_host()) return;
    throw Error(
        ErrorCode::invalid_argument, "stream",
        "stream is " + repr_of(stream) + ", but host memory has no streams: pass stream=None");
  }
  const intptr_t later = stream == Py_None ? kLegacyStream : handle_of(stream);
  if (later == kNoSync || view.is_empty()) return;
  const DeviceModule* module = usable_device_module();
  if (module == nullptr) return;  // no work runs here that could be ordered
  const int32_t device = view.device.device_id;
  check(module->order(device, own == 0 ? kLegacyStream : own, later));
  const Deleter deleter = loan.original ? loan.original : loan.deleter();
  if (!module->record_deleter(&deleter, device, later)) record_with_framework(view, loan, later);
}

}  // namespace dlbridge::python
