#include "sources/exchange_table.h"

#include <dlpack/dlpack.h>

#include <string>

#include "dlbridge/copy.h"
#include "dlbridge/managed_tensor.h"
#include "dlbridge/validate.h"
#include "gpu/streams.h"
#include "sources/capsule.h"
#include "support/errors.h"
#include "support/reference.h"
#include "tensor/value.h"

namespace dlbridge::python {
namespace {

constexpr const char* kCapsuleName = "dlpack_exchange_api";
constexpr const char* kAttribute = "__dlpack_c_exchange_api__";

// ---- taking ----

// The attribute in the type's own dictionary, or null. A new reference.
Reference own_attribute(PyTypeObject* type) noexcept {
  static PyObject* const name = PyUnicode_InternFromString(kAttribute);
#if PY_VERSION_HEX >= 0x030C0000
  const Reference dict(PyType_GetDict(type));
  PyObject* names = dict.get();
#else
  PyObject* names = type->tp_dict;
#endif
  PyObject* found = names && name ? PyDict_GetItemWithError(names, name) : nullptr;
  if (found == nullptr) PyErr_Clear();
  return Reference(Py_XNewRef(found));
}

// The first table of a major version that is known, along the chain of older ones. A chain that
// does not end is left.
const DLPackExchangeAPI* known_version(const DLPackExchangeAPIHeader* header) noexcept {
  for (int steps = 0; header != nullptr && steps < 16; ++steps, header = header->prev_api) {
    if (header->version.major == kDLPackMajor)
      return reinterpret_cast<const DLPackExchangeAPI*>(header);
  }
  return nullptr;
}

Error* acquired_already(PyObject*, Loan*) noexcept { return nullptr; }

const Adapter g_exchange_adapter = [] {
  Adapter adapter;
  adapter.core = &neutral_traits();
  adapter.traits = &neutral_traits();
  adapter.accepts = [](PyObject*) noexcept { return false; };
  adapter.describe = acquired_already;
  adapter.acquire = acquired_already;
  return adapter;
}();

// ---- offering ----

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

const Tensor* expect_tensor(void* object) noexcept {
  auto* x = static_cast<PyObject*>(object);
  if (x != nullptr && tensor_adapter().accepts(x)) return &unpack_tensor(x);
  raise_type_error("x is %.200s; expected a dlbridge.Tensor",
                   x == nullptr ? "null" : Py_TYPE(x)->tp_name);
  return nullptr;
}

int from_object(void* object, DLManagedTensorVersioned** out) noexcept {
  *out = nullptr;
  const Tensor* tensor = expect_tensor(object);
  if (tensor == nullptr) return -1;
  Error* error = guarded([&] {
    Loan loan = tensor->memory.share();
    order_export(Py_None, loan.view(), tensor->stream, loan);
    *out = to_managed(std::move(loan));
  });
  if (error == nullptr) return 0;
  raise(error);
  return -1;
}

int borrow_from_object(void* object, DLTensor* out) noexcept {
  const Tensor* tensor = expect_tensor(object);
  if (tensor == nullptr) return -1;
  const TensorView& view = tensor->memory.view();
  Loan described;
  if (Error* error = guarded([&] {
        require_no_padding(view);
        described.original = tensor->memory.original();
        order_export(Py_None, view, tensor->stream, described);
      })) {
    raise(error);
    return -1;
  }
  DLDevice device = view.device;
  if (Device(device).is_host()) device.device_id = 0;
  *out = {view.data,
          device,
          view.ndim,
          view.dtype,
          const_cast<int64_t*>(view.shape),
          const_cast<int64_t*>(view.strides),
          view.byte_offset};
  return 0;
}

// Takes the tensor in any case: what cannot be wrapped goes back to its deleter.
int to_object(DLManagedTensorVersioned* managed, void** out) noexcept {
  *out = nullptr;
  Loan loan;
  Error* error = guarded([&] { describe_managed(managed, loan); });
  if (managed != nullptr) loan.attach(deleter_of(managed));
  if (error == nullptr) {
    PyObject* made = nullptr;
    error = tensor_adapter().wrap(&loan, &made);
    if (error == nullptr) {
      *out = made;
      return 0;
    }
  }
  raise(error);
  const PendingException aside;
  loan.reset();
  return -1;
}

// Tensors on a device are behind streams of their own; before one is shown here it is ordered in
// front of the legacy stream, which the null handle names.
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

const DLPackExchangeAPI* exchange_table_of(PyTypeObject* type) noexcept {
  const Reference capsule = own_attribute(type);
  if (!capsule || !PyCapsule_IsValid(capsule.get(), kCapsuleName)) return nullptr;
  const auto* header = static_cast<const DLPackExchangeAPIHeader*>(
      PyCapsule_GetPointer(capsule.get(), kCapsuleName));
  const DLPackExchangeAPI* table = known_version(header);
  return table && table->managed_tensor_from_py_object_no_sync ? table : nullptr;
}

bool take_through_table(const DLPackExchangeAPI& table, PyObject* x, Loan& loan) noexcept {
  DLManagedTensorVersioned* managed = nullptr;
  if (table.managed_tensor_from_py_object_no_sync(x, &managed) != 0) {
    if (!PyErr_Occurred()) {
      raise(Error(ErrorCode::framework_error, "exchange table",
                  std::string(Py_TYPE(x)->tp_name) +
                      "'s exchange table failed without saying why: pass x.__dlpack__()"));
    }
    return false;
  }
  // A slot that reports success and leaves an exception has failed all the same.
  const bool left_behind = PyErr_Occurred() != nullptr;
  Error* error = left_behind ? nullptr : guarded([&] { describe_managed(managed, loan); });
  if (managed != nullptr) loan.attach(foreign_deleter(managed));
  if (error == nullptr && !left_behind) return true;
  if (error != nullptr) raise(error);
  const PendingException aside;
  loan.reset();
  return false;
}

intptr_t work_stream_of(const DLPackExchangeAPI& table, DLDevice device) noexcept {
  if (Device(device).is_host() || table.current_work_stream == nullptr) return 0;
  void* stream = nullptr;
  const PendingException aside;
  if (table.current_work_stream(device.device_type, device.device_id, &stream) != 0) {
    PyErr_Clear();
    return kLegacyStream;
  }
  return stream == nullptr ? kLegacyStream : reinterpret_cast<intptr_t>(stream);
}

const Adapter& exchange_adapter() noexcept { return g_exchange_adapter; }

PyObject* new_exchange_capsule() noexcept { return PyCapsule_New(&g_table, kCapsuleName, nullptr); }

}  // namespace dlbridge::python
