// SPDX-License-Identifier: Apache-2.0
#include "sources/capsule.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>

#include "dlbridge/managed_tensor.h"
#include "support/errors.h"

namespace dlbridge::python {
namespace {

// The names the standard gives, static as it asks (docs/reference/rules.md#46).
constexpr const char* kLegacy = "dltensor";
constexpr const char* kLegacyUsed = "used_dltensor";
constexpr const char* kVersioned = "dltensor_versioned";
constexpr const char* kVersionedUsed = "used_dltensor_versioned";

// Deleters that run now without the GIL, and whether the interpreter ends.
std::atomic<int> g_releasing{0};
std::atomic<bool> g_ending{false};

// Gives a foreign tensor back. Its deleter may be Python code, which must neither see nor clear an
// exception that is under way on this thread (docs/reference/rules.md#44, #59); on a thread without
// the GIL there is none. There it may take the GIL, which an interpreter that ends answers by
// ending the thread, inside the deleter: dlbridge's own threads leak the tensor then.
template <typename Managed>
void release_foreign(void* managed) noexcept {
  auto* tensor = static_cast<Managed*>(managed);
  if (tensor->deleter == nullptr) return;
  if (Py_IsInitialized() && PyGILState_Check()) {
    const PendingException aside;
    tensor->deleter(tensor);
    return;
  }
  ++g_releasing;
  const bool ours = PyGILState_GetThisThreadState() == nullptr;
  if (!ours || !g_ending) parked_at_exit([tensor] { tensor->deleter(tensor); });
  --g_releasing;
}

template <typename Managed>
void destroy(PyObject* capsule, const char* name) noexcept {
  if (!PyCapsule_IsValid(capsule, name)) return;  // consumed: the consumer owns
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, name));
  release_foreign<Managed>(managed);
}

void destroy_legacy(PyObject* capsule) { destroy<DLManagedTensor>(capsule, kLegacy); }
void destroy_versioned(PyObject* capsule) {
  destroy<DLManagedTensorVersioned>(capsule, kVersioned);
}

template <typename Managed>
PyObject* new_capsule(Managed* managed, const char* name, PyCapsule_Destructor destructor) {
  PyObject* capsule = PyCapsule_New(managed, name, destructor);
  if (capsule == nullptr) {
    managed->deleter(managed);
    throw_pending();
  }
  return capsule;
}

[[noreturn]] void refuse_name(const char* name) {
  const std::string found = name ? name : "(none)";
  if (found.starts_with("used_")) {
    throw Error(
        ErrorCode::capsule_used, "capsule",
        "the capsule is named " + found +
            ": it was consumed before; a capsule can be taken once: call __dlpack__() again");
  }
  throw Error(ErrorCode::capsule_name, "capsule",
              "the capsule is named " + found + "; expected dltensor or dltensor_versioned");
}

bool has_name(PyObject* capsule, const char* expected) noexcept {
  const char* name = PyCapsule_GetName(capsule);
  return name != nullptr && std::strcmp(name, expected) == 0;
}

Error* describe(PyObject* x, Loan* loan) noexcept {
  return guarded([&] {
    if (has_name(x, kVersioned)) {
      describe_managed(static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(x, kVersioned)),
                       *loan);
    } else if (has_name(x, kLegacy)) {
      describe_managed(static_cast<DLManagedTensor*>(PyCapsule_GetPointer(x, kLegacy)), *loan);
    } else {
      refuse_name(PyCapsule_GetName(x));
    }
  });
}

// Gives a capsule the name of a used one. Python code may have run since it was described, and may
// have consumed it: the name is read again. Throws Error where it is not ours any more.
void mark_used(PyObject* x) {
  const bool versioned = has_name(x, kVersioned);
  if (!versioned && !has_name(x, kLegacy)) refuse_name(PyCapsule_GetName(x));
  if (PyCapsule_SetName(x, versioned ? kVersionedUsed : kLegacyUsed) != 0)
    throw Error(ErrorCode::python_exception, "capsule", "the capsule could not be consumed");
}

// Renames first: only a capsule that was renamed here may be released (docs/reference/rules.md#49,
// #50).
Error* acquire(PyObject* x, Loan* loan) noexcept {
  return guarded([&] {
    mark_used(x);
    const bool versioned = has_name(x, kVersionedUsed);
    void* managed = PyCapsule_GetPointer(x, PyCapsule_GetName(x));
    loan->attach({managed, versioned ? release_foreign<DLManagedTensorVersioned>
                                     : release_foreign<DLManagedTensor>});
  });
}

const Adapter g_capsule_adapter{
    .traits = &neutral_traits(), .describe = describe, .acquire = acquire};

// The attribute, or null where x has none. Throws what its getter raises.
Reference method_of(PyObject* x, const char* name) {
  Reference method(parked_at_exit([&] { return PyObject_GetAttrString(x, name); }));
  if (!method && !PyErr_ExceptionMatches(PyExc_AttributeError)) throw_pending();
  if (!method) PyErr_Clear();
  return method;
}

// Returns true if the pending TypeError says that a keyword is unknown; it may come from inside the
// producer, too.
bool is_signature_error() noexcept {
  if (!PyErr_ExceptionMatches(PyExc_TypeError)) return false;
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  const Reference text(value ? PyObject_Str(value) : nullptr);
  PyErr_Clear();
  const std::string_view message = utf8_of(text.get()).value_or("");
  const bool signature = std::ranges::any_of(
      std::array{"keyword argument", "max_version", "incompatible function arguments"},
      [&](const char* sign) { return message.find(sign) != message.npos; });
  PyErr_Restore(type, value, traceback);
  return signature;
}

}  // namespace

HeldCapsule::HeldCapsule(PyObject* x) {
  if (!is_capsule(x)) return;
  const char* name = PyCapsule_GetName(x);
  mark_used(x);
  capsule_ = x;
  name_ = name;
}

HeldCapsule::~HeldCapsule() {
  if (capsule_ != nullptr) PyCapsule_SetName(capsule_, name_);
}

void end_foreign_releases() noexcept {
  using Clock = std::chrono::steady_clock;
  g_ending = true;
  const auto until = Clock::now() + std::chrono::seconds(2);
  while (g_releasing > 0 && Clock::now() < until)
    std::this_thread::sleep_for(std::chrono::microseconds(100));
}

PyObject* to_capsule(Loan&& loan, bool versioned) {
  if (versioned) return new_capsule(to_managed(std::move(loan)), kVersioned, destroy_versioned);
  return new_capsule(to_managed_legacy(std::move(loan)), kLegacy, destroy_legacy);
}

Deleter foreign_deleter(DLManagedTensorVersioned* managed) noexcept {
  return {managed, release_foreign<DLManagedTensorVersioned>};
}

const Adapter& capsule_adapter() noexcept { return g_capsule_adapter; }

Reference dlpack_method_of(PyObject* x) {
  Reference method = method_of(x, "__dlpack__");
  return method.get() == Py_None ? Reference() : std::move(method);
}

std::optional<Device> device_of_pair(PyObject* pair) {
  if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) return std::nullopt;
  const auto type = integer_of(PyTuple_GET_ITEM(pair, 0));
  const auto id = integer_of(PyTuple_GET_ITEM(pair, 1));
  if (!type || !id || *type != static_cast<int32_t>(*type) || *id != static_cast<int32_t>(*id))
    return std::nullopt;
  return Device(static_cast<DeviceType>(*type), static_cast<int32_t>(*id));
}

std::optional<Device> dlpack_device_of(PyObject* x) {
  const Reference method = method_of(x, "__dlpack_device__");
  if (!method) return std::nullopt;
  const Reference pair = checked(parked_at_exit([&] { return PyObject_CallNoArgs(method.get()); }));
  return device_of_pair(pair.get());
}

Reference call_dlpack(PyObject* x, PyObject* method, intptr_t stream) {
  const Reference arguments = checked(PyTuple_New(0));
  const Reference keywords =
      checked(Py_BuildValue("{s(ii)}", "max_version", int{kDLPackMajor}, int{kDLPackMinor}));
  if (stream != 0) {
    const Reference handle = checked(PyLong_FromSsize_t(stream));
    if (PyDict_SetItemString(keywords.get(), "stream", handle.get()) < 0) throw_pending();
  }
  const auto call = [&] {
    return Reference(
        parked_at_exit([&] { return PyObject_Call(method, arguments.get(), keywords.get()); }));
  };
  Reference capsule = call();
  if (!capsule && is_signature_error()) {
    PyErr_Clear();
    if (PyDict_DelItemString(keywords.get(), "max_version") < 0) throw_pending();
    capsule = call();
  }
  if (!capsule) throw_pending();
  if (!is_capsule(capsule.get())) {
    throw_type_error(std::string(Py_TYPE(x)->tp_name) + ".__dlpack__() returned " +
                     Py_TYPE(capsule.get())->tp_name + "; expected a DLPack capsule");
  }
  return capsule;
}

}  // namespace dlbridge::python
