// SPDX-License-Identifier: Apache-2.0
#include "bridge/device_module.h"

#include <atomic>
#include <memory>
#include <new>
#include <tuple>

#include "dlbridge/python_object/gil.h"
#include "support/reference.h"

namespace dlbridge::python {
namespace {

std::atomic<const DeviceModule*> g_module{nullptr};
DeviceModule g_raw;  // the module's own functions; set before g_module

// ---- The functions without the GIL

template <auto kSlot>
struct WithoutGil;
template <typename Result, typename... Arguments,
          Result (*DeviceModule::*kSlot)(Arguments...) noexcept>
struct WithoutGil<kSlot> {
  static Result call(Arguments... arguments) noexcept {
    return without_gil([&] { return (g_raw.*kSlot)(arguments...); });
  }
};

void release_without_gil(void* context) noexcept {
  const std::unique_ptr<Deleter> deleter(static_cast<Deleter*>(context));
  without_gil([&] { deleter->release(deleter->context); });
}

// Leaves the deleter as it is where there is no memory left.
void wrap_deleter(Loan& loan) noexcept {
  if (auto* inner = new (std::nothrow) Deleter(loan.deleter())) {
    static_cast<void>(loan.release_deleter());
    loan.attach({inner, release_without_gil});
  }
}

// The same for a function whose last argument is a Loan that it fills.
template <auto kSlot>
struct LoanWithoutGil;
template <typename... Arguments, Error* (*DeviceModule::*kSlot)(Arguments...) noexcept>
struct LoanWithoutGil<kSlot> {
  static Error* call(Arguments... arguments) noexcept {
    Error* error = WithoutGil<kSlot>::call(arguments...);
    Loan& loan = *std::get<sizeof...(Arguments) - 1>(std::tie(arguments...));
    if (error == nullptr && loan.owns_memory()) wrap_deleter(loan);
    return error;
  }
};

bool record_deleter(const Deleter* deleter, int32_t device, intptr_t stream) noexcept {
  const bool wrapped = deleter->release == release_without_gil;
  return g_raw.record_deleter(wrapped ? static_cast<const Deleter*>(deleter->context) : deleter,
                              device, stream);
}

template <auto... kSlots>
void release_gil_in(DeviceModule& module) noexcept {
  ((module.*kSlots = WithoutGil<kSlots>::call), ...);
}

template <auto... kSlots>
void release_gil_with_loan_in(DeviceModule& module) noexcept {
  ((module.*kSlots = LoanWithoutGil<kSlots>::call), ...);
}

const DeviceModule* without_gil_everywhere() noexcept {
  using M = DeviceModule;
  static DeviceModule module;
  module = g_raw;
  release_gil_in<&M::unavailable, &M::describe, &M::start_to_host, &M::start_to_host_into,
                 &M::start_to_device, &M::to_host_through_ring, &M::copy_on_device, &M::fits_pool,
                 &M::is_pinned, &M::strategy, &M::drop, &M::order, &M::reached, &M::import_stream,
                 &M::allocation_stream, &M::record_pinned, &M::pool_statistics, &M::set_pool_limit,
                 &M::reserve_pinned, &M::trim_pinned, &M::device_of_pointer, &M::device_of_pinned,
                 &M::shares_managed>(module);
  release_gil_with_loan_in<&M::result, &M::device_empty, &M::pinned_empty>(module);
  module.record_deleter = record_deleter;
  return &module;
}

// ---- Loading

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

void call_deleter_without_gil(Loan& loan) noexcept {
  if (!loan.owns_memory()) return;
  if (!loan.original) loan.original = loan.deleter();
  wrap_deleter(loan);
}

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
  const auto* module =
      static_cast<const DeviceModule*>(PyCapsule_GetPointer(capsule, kDeviceModuleCapsule));
  if (module == nullptr) throw_pending();
  if (module->struct_size != sizeof(DeviceModule) || module->core != &neutral_traits()) {
    PyErr_SetString(
        PyExc_ImportError,
        "dlbridge: a device module of another build of dlbridge was loaded: reinstall dlbridge");
    throw_pending();
  }
  g_raw = *module;
  g_module.store(without_gil_everywhere(), std::memory_order_release);
}

}  // namespace dlbridge::python
