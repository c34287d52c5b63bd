// SPDX-License-Identifier: Apache-2.0
#include "sources/source.h"

#include "bridge/device_module.h"
#include "bridge/registry.h"
#include "sources/capsule.h"
#include "sources/cuda_array.h"
#include "sources/exchange_table.h"

namespace dlbridge::python {
namespace {

constexpr ReasonSet kNeedsFramework =
    ReasonSet(ErrorCode::byte_order) | ErrorCode::stride_not_multiple | ErrorCode::conj_bit |
    ErrorCode::neg_bit | ErrorCode::zero_tensor | ErrorCode::copy_on_write;

// The message names a call that works for this object, which Python finds (dlbridge/_advice.py).
[[noreturn]] void refuse_no_producer(PyObject* x) {
  throw_type_error(text_of(call_python("dlbridge._advice", "no_producer", "(O)", x).get()));
}

// Throws for a tensor of TensorFlow whose __dlpack__ ends the process.
void refuse_opaque_elements(PyObject* x) {
  const std::string text =
      text_of(call_python("dlbridge._advice", "opaque_elements", "(O)", x).get());
  if (!text.empty()) throw Error(ErrorCode::unsupported_dtype, "dtype", text);
}

// Returns true if the buffer of x is read-only.
bool has_read_only_buffer(PyObject* x) {
  if (PyObject_CheckBuffer(x) == 0) return false;
  Py_buffer buffer;
  if (parked_at_exit([&] { return PyObject_GetBuffer(x, &buffer, PyBUF_FULL_RO); }) < 0) {
    PyErr_Clear();
    return false;
  }
  const bool read_only = buffer.readonly != 0;
  PyBuffer_Release(&buffer);
  return read_only;
}

}  // namespace

bool Source::open_known(PyObject* x) {
  object_ = x;
  adapter_ = adapter_by_type(Py_TYPE(x));
  if (adapter_ == nullptr) [[unlikely]]
    return false;
  check(adapter_->describe(object_, &loan_));
  return true;
}

void Source::open_slow(PyObject* x) {
  object_ = x;
  if (PyType_Check(x)) refuse_no_producer(x);  // a class has the methods of its objects
  adapter_ = adapter_for(x);
  if (adapter_ == nullptr && is_capsule(x)) adapter_ = &capsule_adapter();
  if (adapter_ != nullptr) return check(adapter_->describe(object_, &loan_));
  if (const DLPackExchangeAPI* table = exchange_table_of(Py_TYPE(x))) {
    adapter_ = &exchange_adapter();
    take_through_table(*table, x, loan_);
    stream_ = work_stream_of(*table, loan_.view().device);
    return;
  }
  open_by_protocol(x);
}

void Source::open_by_protocol(PyObject* x) {
  const Reference method = dlpack_method_of(x);
  if (!method) {
    const Reference interface = attribute_of(x, kCudaArrayAttribute);
    if (!interface) return open_as_array(x);
    adapter_ = &cuda_array_adapter();
    return describe_cuda_array(interface.get(), loan_, stream_);
  }
  if (is_of_package(Py_TYPE(x), "tensorflow")) refuse_opaque_elements(x);
  choose_stream(x);
  capsule_ = call_dlpack(x, method.get(), stream_);
  original_ = x;
  object_ = capsule_.get();
  adapter_ = &capsule_adapter();
  check(adapter_->describe(object_, &loan_));
  Access& access = loan_.view().access;
  if (access != Access::read_only &&
      (is_immutable_producer(Py_TYPE(x)) || (access == Access::unknown && has_read_only_buffer(x))))
    access = Access::read_only;
}

// Buffers (PEP 3118) and objects with __array_interface__, which NumPy reads.
void Source::open_as_array(PyObject* x) {
  const Reference memory = PyObject_CheckBuffer(x) != 0
                               ? checked(parked_at_exit([x] { return PyMemoryView_FromObject(x); }))
                               : Reference(Py_NewRef(Py_None));
  const Reference found = call_python("dlbridge._arrays", "array_over", "(OO)", x, memory.get());
  if (found.get() == Py_None) refuse_no_producer(x);
  if (PyUnicode_Check(found.get())) throw_type_error(text_of(found.get()));
  capsule_ = Reference(Py_NewRef(PyTuple_GET_ITEM(found.get(), 0)));
  original_ = x;
  object_ = capsule_.get();
  adapter_ = &adapter_named("numpy");
  check(adapter_->describe(object_, &loan_));
  loan_.view().is_copied = PyTuple_GET_ITEM(found.get(), 1) == Py_True;
  if (!loan_.view().reasons.empty() && loan_.view().remedy() != nullptr) {  // it speaks of an array
    detail_ = {loan_.view().found(), "pass an array of numbers that is made of numpy.asarray(x)"};
    loan_.view().detail = &detail_;
  }
}

// A producer on a GPU is passed a stream that waits for its work.
void Source::choose_stream(PyObject* x) {
  const auto device = dlpack_device_of(x);
  const DeviceModule* module = device && device->is_cuda() ? usable_device_module() : nullptr;
  if (module == nullptr) {
    stream_ = 0;
    return;
  }
  // Checked before the producer uses it: its wait for uncaptured work would end a capture.
  if (stream_ != 0) return check(module->order(device->id(), stream_, kNoSync));
  if (common_ != nullptr && common_->device == device->id()) {
    stream_ = common_->stream;
    return;
  }
  check(module->import_stream(device->id(), &stream_));
  if (common_ != nullptr) *common_ = {device->id(), stream_};
}

intptr_t Source::stream() const {
  intptr_t stream = stream_;
  if (adapter_->current_stream != nullptr)
    check(adapter_->current_stream(object_, view().device.device_id, &stream));
  return stream == 0 ? kLegacyStream : stream;
}

bool Source::needs_framework() const noexcept {
  return !(view().reasons & kNeedsFramework).empty();
}

}  // namespace dlbridge::python
