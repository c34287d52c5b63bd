// SPDX-License-Identifier: Apache-2.0
#include "bridge/device_module.h"

#include <atomic>

#include "support/reference.h"

namespace dlbridge::python {
namespace {

std::atomic<const DeviceModule*> g_module{nullptr};

// Why the module could not be loaded, in Python's words; empty where it could.
std::string g_reason;  // guarded by the GIL
bool g_tried = false;

void load() noexcept {
  const PendingException aside;
  const Reference loader(PyImport_ImportModule("dlbridge._adapters"));
  const Reference reason(loader ? PyObject_CallMethod(loader.get(), "load_device_module", nullptr)
                                : nullptr);
  const char* text =
      reason && PyUnicode_Check(reason.get()) ? PyUnicode_AsUTF8(reason.get()) : nullptr;
  if (text != nullptr) {
    try {
      g_reason = text;
    } catch (const std::bad_alloc&) {
      // The message will be short.
    }
  }
  g_tried = PyErr_Occurred() == nullptr;
  if (!g_tried && PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) PyErr_SetInterrupt();
  PyErr_Clear();
}

}  // namespace

const DeviceModule* device_module() noexcept {
  if (const DeviceModule* module = g_module.load(std::memory_order_acquire)) return module;
  if (!g_tried) load();
  return g_module.load(std::memory_order_acquire);
}

const DeviceModule* usable_device_module() noexcept {
  const DeviceModule* module = device_module();
  if (module == nullptr) return nullptr;
  const std::unique_ptr<Error> error(module->unavailable());
  return error == nullptr ? module : nullptr;
}

ReasonSet unusable_reasons() {
  const DeviceModule* module = device_module();
  if (module == nullptr) return ErrorCode::no_staging;
  const std::unique_ptr<Error> error(module->unavailable());
  if (error == nullptr) return {};
  if (error->code() >= ErrorCode::reason_count_) throw Error(*error);
  return error->code();
}

const DeviceModule& require_device_module() {
  const DeviceModule* module = device_module();
  if (module == nullptr) {
    throw Error(ErrorCode::no_staging, "device",
                "the CUDA module of dlbridge cannot be used: " +
                    (g_reason.empty() ? "it could not be loaded" : g_reason));
  }
  check(module->unavailable());
  return *module;
}

void register_device_module(PyObject* capsule) {
  const auto* module =
      static_cast<const DeviceModule*>(PyCapsule_GetPointer(capsule, kDeviceModuleCapsule));
  if (module == nullptr) throw_pending();
  if (module->struct_size != sizeof(DeviceModule) || module->core != &neutral_traits()) {
    PyErr_SetString(
        PyExc_ImportError,
        "dlbridge: a device module of another build of dlbridge was loaded: reinstall dlbridge");
    throw_pending();
  }
  g_module.store(module, std::memory_order_release);
}

}  // namespace dlbridge::python
