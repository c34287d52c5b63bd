#include "sources/source.h"

#include "bridge/device_module.h"
#include "bridge/registry.h"
#include "sources/capsule.h"
#include "sources/cuda_array.h"
#include "sources/exchange_table.h"
#include "support/errors.h"

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
    if (!take_through_table(*table, x, loan_)) return false;
    stream_ = work_stream_of(*table, loan_.view().device);
    return true;
  }
  return open_by_protocol(x);
}

bool Source::open_by_protocol(PyObject* x) noexcept {
  const Reference method(dlpack_method_of(x));
  if (!method) {
    if (PyErr_Occurred()) return false;
    const Reference interface = cuda_array_interface_of(x);
    if (!interface) return refuse_no_producer(x);
    adapter_ = &cuda_array_adapter();
    if (Error* error = guarded([&] { describe_cuda_array(interface.get(), loan_, stream_); })) {
      raise(error);
      return false;
    }
    return true;
  }
  if (!ask_for_stream(x)) return false;
  capsule_ = call_dlpack(x, method.get(), stream_);
  if (!capsule_) return false;
  object_ = capsule_.get();
  if (!describe()) return false;
  if (loan_.view().access != Access::read_only && is_immutable_producer(Py_TYPE(x)))
    loan_.view().access = Access::read_only;
  return true;
}

// A producer on a GPU is asked to put its work in front of a stream of ours.
bool Source::ask_for_stream(PyObject* x) noexcept {
  const auto device = dlpack_device_of(x);
  const DeviceModule* module = device && device->is_cuda() ? usable_device_module() : nullptr;
  if (module == nullptr) {
    stream_ = 0;
    return PyErr_Occurred() == nullptr;
  }
  if (stream_ != 0) return true;  // the caller names it
  if (common_ != nullptr && common_->device == device->id()) {
    stream_ = common_->stream;
    return true;
  }
  if (Error* error = module->import_stream(device->id(), &stream_)) {
    raise(error);
    return false;
  }
  if (common_ != nullptr) *common_ = {device->id(), stream_};
  return true;
}

bool Source::describe() noexcept {
  if (Error* error = adapter_->describe(object_, &loan_)) [[unlikely]] {
    raise(error);
    return false;
  }
  return true;
}

bool Source::acquire() noexcept {
  if (Error* error = adapter_->acquire(object_, &loan_)) [[unlikely]] {
    raise(error);
    return false;
  }
  return true;
}

}  // namespace dlbridge::python
