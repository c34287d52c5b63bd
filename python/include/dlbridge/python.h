// SPDX-License-Identifier: Apache-2.0
// The Python package dlbridge from extension modules: any object <-> Loan. dlbridge/nanobind.h and
// dlbridge/pybind11.h make parameters and return values of it.
//
// All need the GIL. Functions that throw Error (python_exception) leave the Python exception set:
// translate_errors() of the two headers passes it on, a plain PyCFunction returns null.
// Memory of a GPU is ordered on the legacy default stream: work enqueued on it from here on sees
// the elements, and an object that is returned is valid after the work that it holds then.
#pragma once

#include <Python.h>

#include <atomic>
#include <cstdint>
#include <utility>

#include "dlbridge/error.h"
#include "dlbridge/loan.h"

namespace dlbridge {
namespace detail {

/// What the package offers to extension modules, in the capsule kExtensionApiName. Functions return
/// null or -1 with a Python exception set.
struct ExtensionApi {
  uint32_t struct_size = sizeof(ExtensionApi);
  uint32_t loan_size = sizeof(Loan);
  /// Returns 1 for an array, a tensor or a DLPack producer, 0 for what could be read all the same
  /// (a buffer) or not at all.
  int (*is_array)(PyObject* x) noexcept = nullptr;
  /// Fills an empty loan, which then owns.
  int (*share)(PyObject* x, Loan* loan) noexcept = nullptr;
  /// A new dlbridge.Tensor over the memory of `x`; writes its view, which lives as long as it.
  PyObject* (*borrow)(PyObject* x, const TensorView** view) noexcept = nullptr;
  /// A new object of the framework of `like`; a dlbridge.Tensor where that is null or of no
  /// framework. Consumes the loan.
  PyObject* (*to_object)(Loan* loan, PyObject* like) noexcept = nullptr;
  void (*set_exception)(const Error* error) noexcept = nullptr;
};
inline constexpr const char* kExtensionApiName = "dlbridge._core._extension_api";

/// Imports the package where that was not done; null with an ImportError set where it is missing or
/// of another version.
inline const ExtensionApi* extension_api() noexcept {
  static std::atomic<const ExtensionApi*> known = nullptr;
  if (const ExtensionApi* api = known.load(std::memory_order_acquire)) return api;
  const auto* api = static_cast<const ExtensionApi*>(PyCapsule_Import(kExtensionApiName, 0));
  if (api == nullptr) return nullptr;
  if (api->struct_size != sizeof(ExtensionApi) || api->loan_size != sizeof(Loan)) {
    PyErr_SetString(PyExc_ImportError,
                    "dlbridge: this module was compiled with the headers of another version of "
                    "dlbridge than the one that is imported: rebuild the module");
    return nullptr;
  }
  known.store(api, std::memory_order_release);
  return api;
}

[[noreturn]] inline void throw_python_exception() {
  throw Error(ErrorCode::python_exception, "", "a Python exception is set");
}

}  // namespace detail

/// A loan over the memory of `x`, which the loan keeps: what dlbridge.from_dlpack(x) takes. It may
/// be destroyed on any thread, with or without the GIL. Throws Error (python_exception).
inline Loan share_object(PyObject* x) {
  Loan loan;
  const detail::ExtensionApi* api = detail::extension_api();
  if (api == nullptr || api->share(x, &loan) != 0) detail::throw_python_exception();
  return loan;
}

/// A new reference to an object over the loan's memory, which owns the loan: an ndarray or a
/// torch.Tensor where `like` is one, else a dlbridge.Tensor. It calls the deleter without the GIL.
/// Throws Error (python_exception), also where that framework cannot share the memory; the memory
/// is freed then, at the latest when `loan` is destroyed.
inline PyObject* to_object(Loan&& loan, PyObject* like = nullptr) {
  const detail::ExtensionApi* api = detail::extension_api();
  PyObject* object = api != nullptr ? api->to_object(&loan, like) : nullptr;
  if (object == nullptr) detail::throw_python_exception();
  return object;
}

/// Sets the Python exception for `error`: dlbridge.ExchangeError with code and field; TypeError for
/// unsupported_type; the one that is set already for python_exception.
inline void set_python_exception(const Error& error) noexcept {
  if (const detail::ExtensionApi* api = detail::extension_api()) api->set_exception(&error);
}

}  // namespace dlbridge
