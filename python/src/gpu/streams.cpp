#include "gpu/streams.h"

#include <string>

#include "bridge/registry.h"
#include "dlbridge/managed_tensor.h"
#include "support/errors.h"
#include "tensor/value.h"
#include "torch/gpu.h"

namespace dlbridge::python {
namespace {

intptr_t to_handle(PyObject* number) {
  const Py_ssize_t handle = PyLong_AsSsize_t(number);
  if (handle == -1 && PyErr_Occurred()) throw_pending();
  return handle;
}

// The attribute as a number; frameworks write 0 for the legacy stream.
std::optional<intptr_t> handle_attribute(PyObject* object, const char* name) {
  Reference value(PyObject_GetAttrString(object, name));
  if (!value) {
    PyErr_Clear();
    return std::nullopt;
  }
  if (!PyLong_Check(value.get())) {  // numba's is a ctypes pointer
    value = Reference(PyObject_GetAttrString(value.get(), "value"));
    if (!value) PyErr_Clear();
    if (value && value.get() == Py_None) return kLegacyStream;
    if (!value || !PyLong_Check(value.get())) return std::nullopt;
  }
  const intptr_t handle = to_handle(value.get());
  return handle == 0 ? kLegacyStream : handle;
}

// The CUDA stream protocol: a pair of a version and the handle.
std::optional<intptr_t> handle_by_protocol(PyObject* object) {
  const Reference method(PyObject_GetAttrString(object, "__cuda_stream__"));
  if (!method) {
    PyErr_Clear();
    return std::nullopt;
  }
  const Reference pair(PyCallable_Check(method.get()) ? PyObject_CallNoArgs(method.get())
                                                      : Py_NewRef(method.get()));
  if (!pair) throw_pending();
  if (!PyTuple_Check(pair.get()) || PyTuple_GET_SIZE(pair.get()) != 2 ||
      !PyLong_Check(PyTuple_GET_ITEM(pair.get(), 1))) {
    return std::nullopt;
  }
  const intptr_t handle = to_handle(PyTuple_GET_ITEM(pair.get(), 1));
  return handle == 0 ? kLegacyStream : handle;
}

intptr_t require_number(intptr_t stream) {
  if (stream == 0 || stream < kNoStream) {
    throw Error(ErrorCode::stream_invalid, "stream",
                "stream is " + std::to_string(stream) +
                    "; expected 1 for the legacy stream, 2 for the per-thread one, -1 for no "
                    "ordering, or a stream's handle");
  }
  return stream;
}

// torch's allocator learns that `stream` uses memory that is torch's own.
void tell_torch(const TensorView& view, const Loan& loan, intptr_t stream) {
  const int32_t device = view.device.device_id;
  const Adapter* torch = loan.original ? adapter_if_loaded("torch") : nullptr;
  if (torch == nullptr || torch->reuse_storage == nullptr) return;
  Loan looked_up;
  looked_up.describe(view);
  looked_up.original = loan.original;
  PyObject* tensor = nullptr;
  check(torch->reuse_storage(&looked_up, &tensor));
  const Reference held(tensor);
  if (tensor != nullptr) torch_record_stream(tensor, device, stream);
}

}  // namespace

std::optional<intptr_t> parse_stream(PyObject* stream) {
  if (stream == nullptr || stream == Py_None) return std::nullopt;
  if (PyLong_Check(stream)) return require_number(to_handle(stream));
  if (const auto handle = handle_by_protocol(stream)) return require_number(*handle);
  for (const char* name : {"cuda_stream", "ptr", "handle"}) {
    if (const auto handle = handle_attribute(stream, name)) return require_number(*handle);
  }
  raise_type_error(
      "stream is %.200s; expected None, an integer, or a stream of torch, CuPy, numba or anything "
      "with __cuda_stream__",
      Py_TYPE(stream)->tp_name);
  throw_pending();
}

intptr_t stream_of(const Source& source) {
  if (is_torch(source.adapter())) return torch_current_stream(source.view().device.device_id);
  const bool is_tensor = source.adapter().accepts == tensor_adapter().accepts;
  const intptr_t stream = is_tensor ? unpack_tensor(source.object()).stream : source.stream();
  return stream == 0 ? kLegacyStream : stream;
}

intptr_t order_for(const Source& source, const Adapter& target) {
  const TensorView& view = source.view();
  if (!Device(view.device).is_cuda()) return 0;
  const intptr_t earlier = stream_of(source);
  if (!is_torch(target)) return earlier;
  const DeviceModule* module = usable_device_module();
  const intptr_t later = torch_current_stream(view.device.device_id);
  if (module == nullptr || view.is_empty()) return later;
  check(module->order(view.device.device_id, earlier, later));
  const Deleter deleter = source.loan().original ? source.loan().original : source.loan().deleter();
  module->record_deleter(&deleter, view.device.device_id, later);
  return later;
}

void order_export(PyObject* stream, const TensorView& view, intptr_t own, const Loan& loan) {
  if (stream != Py_None && !PyLong_Check(stream)) {
    raise_type_error("stream is %.200s; expected an integer or None", Py_TYPE(stream)->tp_name);
    throw_pending();
  }
  if (!Device(view.device).is_cuda()) {
    if (stream == Py_None || !Device(view.device).is_host()) return;
    throw Error(
        ErrorCode::invalid_argument, "stream",
        "stream is " + repr_of(stream) + ", but host memory has no streams: pass stream=None");
  }
  const intptr_t later = stream == Py_None ? kLegacyStream : require_number(to_handle(stream));
  if (later == kNoStream || view.is_empty()) return;
  const DeviceModule* module = usable_device_module();
  if (module == nullptr) return;  // nothing runs here that could be ordered
  const int32_t device = view.device.device_id;
  check(module->order(device, own == 0 ? kLegacyStream : own, later));
  const Deleter deleter = loan.original ? loan.original : loan.deleter();
  if (!module->record_deleter(&deleter, device, later)) tell_torch(view, loan, later);
}

}  // namespace dlbridge::python
