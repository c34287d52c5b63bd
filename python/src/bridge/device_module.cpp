// SPDX-License-Identifier: Apache-2.0
#include "bridge/device_module.h"

#include <atomic>
#include <memory>

#include "bridge/capsule_module.h"

namespace dlbridge::python {
namespace {

std::atomic<const DeviceModule*> g_module{nullptr};

// Why the module could not be loaded, in Python's words; empty where it could.
std::string g_reason;  // guarded by the GIL
bool g_tried = false;

void load() noexcept {
  const PendingException aside;
  try {
    const Reference reason = call_python("dlbridge._adapters", "load_device_module", "()");
    g_reason = text_of(reason.get());
    g_tried = true;
  } catch (const std::exception&) {
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) PyErr_SetInterrupt();
    PyErr_Clear();
  }
}

// Why nothing can be staged on this machine; null where something can.
std::unique_ptr<Error> error_of(const DeviceModule& module) noexcept {
  return std::unique_ptr<Error>(module.in_use() ? nullptr : module.unavailable());
}

}  // namespace

const DeviceModule* device_module() noexcept {
  if (const DeviceModule* module = g_module.load(std::memory_order_acquire)) return module;
  if (!g_tried) load();
  return g_module.load(std::memory_order_acquire);
}

const DeviceModule* usable_device_module() noexcept {
  const DeviceModule* module = device_module();
  return module != nullptr && error_of(*module) == nullptr ? module : nullptr;
}

ReasonSet unusable_reasons() {
  const DeviceModule* module = device_module();
  if (module == nullptr) return ErrorCode::no_staging;
  const std::unique_ptr<Error> error = error_of(*module);
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
  check(error_of(*module).release());
  return *module;
}

void register_device_module(PyObject* capsule) {
  g_module.store(table_of<DeviceModule>(capsule, kDeviceModuleCapsule), std::memory_order_release);
}

}  // namespace dlbridge::python
