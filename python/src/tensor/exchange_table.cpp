// SPDX-License-Identifier: Apache-2.0
// The DLPack exchange table of dlbridge.Tensor.
#include "sources/exchange_table.h"

#include <dlpack/dlpack.h>

#include <string>

#include "dlbridge/copy.h"
#include "dlbridge/managed_tensor.h"
#include "dlbridge/validate.h"
#include "gpu/streams.h"
#include "sources/capsule.h"
#include "tensor/exports.h"
#include "tensor/value.h"

namespace dlbridge::python {
namespace {

// Reports through the caller's callback: the allocator may not touch Python.
int report(void* context, void (*set_error)(void*, const char*, const char*), const char* kind,
           const std::string& message) noexcept {
  if (set_error != nullptr) set_error(context, kind, message.c_str());
  return -1;
}

int allocate(DLTensor* prototype, DLManagedTensorVersioned** out, void* context,
             void (*set_error)(void*, const char*, const char*)) noexcept {
  try {
    if (prototype == nullptr || out == nullptr)
      return report(context, set_error, "ValueError", "prototype or out is null");
    *out = nullptr;
    Loan like;
    read_prototype(*prototype, like);
    const Device device(prototype->device);
    if (!device.is_host()) {
      return report(context, set_error, "BufferError",
                    "device is " + device.name() +
                        "; dlbridge allocates host memory here: allocate on the device and pass "
                        "the tensor");
    }
    Loan memory = allocate_like(like.view());
    memory.view().is_copied = false;  // fresh memory, not the copy of anything
    *out = to_managed(std::move(memory));
    return 0;
  } catch (const Error& error) {
    return report(context, set_error, "BufferError", error.what());
  } catch (const std::bad_alloc&) {
    return report(context, set_error, "MemoryError", "no memory left for the tensor");
  } catch (const std::exception& error) {
    return report(context, set_error, "RuntimeError", error.what());
  }
}

int from_object(void* object, DLManagedTensorVersioned** out) noexcept {
  *out = nullptr;
  return translated_status([&] {
    Tensor& tensor = expect_tensor(static_cast<PyObject*>(object));
    Loan loan = tensor.share();
    order_export(Py_None, loan.view(), tensor.stream, loan);
    *out = to_managed(std::move(loan));
  });
}

int borrow_from_object(void* object, DLTensor* out) noexcept {
  return translated_status([&] {
    const Tensor& tensor = expect_tensor(static_cast<PyObject*>(object));
    const TensorView& view = tensor.view();
    require_no_padding(view);
    Loan described;
    described.original = tensor.original();
    order_export(Py_None, view, tensor.stream, described);
    DLDevice device = view.device;
    if (Device(device).is_host()) device.device_id = 0;
    *out = {view.data,
            device,
            view.ndim,
            view.dtype,
            const_cast<int64_t*>(view.shape),
            const_cast<int64_t*>(view.strides),
            view.byte_offset};
  });
}

// Takes the tensor in any case: what cannot be wrapped is released.
int to_object(DLManagedTensorVersioned* managed, void** out) noexcept {
  *out = nullptr;
  Loan loan;
  const int status = translated_status([&] {
    Error* error = guarded([&] { describe_managed(managed, loan); });
    if (managed != nullptr) loan.attach(foreign_deleter(managed));
    check(error);
    *out = new_tensor(std::move(loan));
  });
  const PendingException aside;
  loan.reset();
  return status;
}

// Tensors on a device are valid after streams of their own. Before a tensor is exported here the
// legacy stream, which the null handle names, waits for its stream.
int work_stream(DLDeviceType, int32_t, void** out) noexcept {
  *out = nullptr;
  return 0;
}

DLPackExchangeAPI g_table = [] {
  DLPackExchangeAPI table{};
  table.header.version = {kDLPackMajor, kDLPackMinor};
  table.managed_tensor_allocator = allocate;
  table.managed_tensor_from_py_object_no_sync = from_object;
  table.managed_tensor_to_py_object_no_sync = to_object;
  table.dltensor_from_py_object_no_sync = borrow_from_object;
  table.current_work_stream = work_stream;
  return table;
}();

}  // namespace

PyObject* new_exchange_capsule() {
  return checked(PyCapsule_New(&g_table, kExchangeTableCapsule, nullptr)).release();
}

}  // namespace dlbridge::python
