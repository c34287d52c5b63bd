// SPDX-License-Identifier: Apache-2.0
// pybind11: functions that take and return arrays of any framework.
//
//     m.def("sum", [](const dlbridge::TensorView& x) { ... });
//
// dlbridge::TensorView  parameter: the memory of the argument, valid until the function returns
// dlbridge::Loan        parameter: the same, for as long as the loan lives, on any thread
//                       result: a dlbridge.Tensor over the loan's memory; like() makes an ndarray
//                       or a torch.Tensor of it
//
// Parameters take what dlbridge.from_dlpack() takes, without a copy. What it refuses raises the
// package's own exception. Where a function has several overloads, the first pass takes only arrays
// and DLPack producers here; bytes and other buffers are taken in the second one.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <utility>

#include "dlbridge/python.h"

namespace dlbridge {

/// A new object over the loan's memory: a numpy.ndarray or a torch.Tensor where `object` is one,
/// else a dlbridge.Tensor. Throws what the package raises, as where that framework cannot share the
/// memory; the memory is freed then.
inline pybind11::object like(pybind11::handle object, Loan&& loan) {
  try {
    return pybind11::reinterpret_steal<pybind11::object>(to_object(std::move(loan), object.ptr()));
  } catch (const Error&) {
    throw pybind11::error_already_set();
  }
}

/// dlbridge::Error that a function of the module throws becomes dlbridge.ExchangeError. Call once
/// in PYBIND11_MODULE.
inline void translate_errors(pybind11::module_&) {
  pybind11::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const Error& error) {
      set_python_exception(error);
    }
  });
}

namespace detail {

/// The package, or null where this pass takes arrays alone and `source` is none. Throws.
inline const ExtensionApi* api_for(pybind11::handle source, bool convert) {
  const ExtensionApi* api = extension_api();
  if (api == nullptr) throw pybind11::error_already_set();
  if (convert) return api;
  const int is_array = api->is_array(source.ptr());
  if (is_array < 0) throw pybind11::error_already_set();
  return is_array == 0 ? nullptr : api;
}

}  // namespace detail
}  // namespace dlbridge

namespace pybind11::detail {

template <>
struct type_caster<dlbridge::Loan> {
#if PYBIND11_VERSION_MAJOR >= 3
  PYBIND11_TYPE_CASTER(dlbridge::Loan, io_name("typing.Any", "dlbridge.Tensor"));
#else
  PYBIND11_TYPE_CASTER(dlbridge::Loan, const_name("dlbridge.Tensor"));
#endif

  bool load(handle source, bool convert) {
    value.reset();
    const dlbridge::detail::ExtensionApi* api = dlbridge::detail::api_for(source, convert);
    if (api == nullptr) return false;
    if (api->share(source.ptr(), &value) != 0) throw error_already_set();
    return true;
  }
  static handle cast(dlbridge::Loan&& loan, return_value_policy, handle) {
    const dlbridge::detail::ExtensionApi* api = dlbridge::detail::extension_api();
    PyObject* object = api != nullptr ? api->to_object(&loan, nullptr) : nullptr;
    if (object == nullptr) throw error_already_set();
    return object;
  }
};

template <>
struct type_caster<dlbridge::TensorView> {
  PYBIND11_TYPE_CASTER(dlbridge::TensorView, const_name("typing.Any"));

  bool load(handle source, bool convert) {
    const dlbridge::detail::ExtensionApi* api = dlbridge::detail::api_for(source, convert);
    if (api == nullptr) return false;
    const dlbridge::TensorView* view = nullptr;
    const auto tensor = reinterpret_steal<object>(api->borrow(source.ptr(), &view));
    if (!tensor) throw error_already_set();
    loader_life_support::add_patient(tensor);  // until the function returns
    value = *view;
    return true;
  }
};

}  // namespace pybind11::detail
