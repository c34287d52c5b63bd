// SPDX-License-Identifier: Apache-2.0
// nanobind: functions that take and return arrays of any framework.
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
// and DLPack producers here; bytes and other buffers are taken in the second one. std::optional
// of both is a parameter, too; in containers what is refused becomes nanobind's own TypeError.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <exception>
#include <optional>
#include <type_traits>
#include <utility>

#include "dlbridge/python.h"

namespace dlbridge {

/// A new object over the loan's memory: a numpy.ndarray or a torch.Tensor where `object` is one,
/// else a dlbridge.Tensor. Throws what the package raises, as where that framework cannot share the
/// memory; the memory is freed then.
inline nanobind::object like(nanobind::handle object, Loan&& loan) {
  try {
    return nanobind::steal(to_object(std::move(loan), object.ptr()));
  } catch (const Error&) {
    throw nanobind::python_error();
  }
}

/// dlbridge::Error that a function of the module throws becomes dlbridge.ExchangeError. Call once
/// in NB_MODULE.
inline void translate_errors(nanobind::module_&) {
  nanobind::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const Error& error) {
      set_python_exception(error);
    }
  });
}

namespace detail {

using nanobind::detail::cleanup_list;

/// Reads an argument; returns false with a Python exception set.
inline bool take(const ExtensionApi& api, PyObject* source, cleanup_list*, Loan& loan) noexcept {
  return api.share(source, &loan) == 0;
}
inline bool take(const ExtensionApi& api, PyObject* source, cleanup_list* cleanup,
                 TensorView& out) noexcept {
  const TensorView* view = nullptr;
  PyObject* tensor = api.borrow(source, &view);
  if (tensor == nullptr) return false;
  cleanup->append(tensor);  // until the function returns
  out = *view;
  return true;
}
template <typename T>
bool take(const ExtensionApi& api, PyObject* source, cleanup_list* cleanup,
          std::optional<T>& out) noexcept {
  return source == Py_None || take(api, source, cleanup, out.emplace());
}

inline nanobind::handle give(Loan&& loan) noexcept {
  const ExtensionApi* api = extension_api();
  return api != nullptr ? api->to_object(&loan, nullptr) : nullptr;
}

/// What the casters below share. nanobind drops the exception that from_python() leaves, so it is
/// kept until the function would be called.
template <typename T>
struct ArgumentCaster {
  using Value = T;
  template <typename U>
  using Cast = nanobind::detail::movable_cast_t<U>;
  /// Asked by casters of containers, which cannot pass on what an operator throws.
  template <typename U>
  bool can_cast() const noexcept {
    return !failure;
  }

  bool from_python(nanobind::handle source, uint32_t flags, cleanup_list* cleanup) noexcept {
    constexpr bool borrows = !std::is_same_v<T, Loan> && !std::is_same_v<T, std::optional<Loan>>;
    if (borrows && cleanup == nullptr) return false;  // nothing would keep the memory
    value = T();
    failure.reset();
    const ExtensionApi* api = extension_api();
    if (api != nullptr && !(flags & nanobind::detail::cast_flags::convert) && !source.is_none()) {
      const int is_array = api->is_array(source.ptr());
      if (is_array == 0) return false;
      if (is_array < 0) api = nullptr;
    }
    if (api == nullptr || !take(*api, source.ptr(), cleanup, value)) failure.emplace();
    return true;
  }

  explicit operator T&() {
    if (failure) throw nanobind::python_error(std::move(*failure));
    return value;
  }
  explicit operator T*() { return &static_cast<T&>(*this); }
  explicit operator T&&() { return std::move(static_cast<T&>(*this)); }

  T value;
  std::optional<nanobind::python_error> failure;
};

}  // namespace detail
}  // namespace dlbridge

namespace nanobind::detail {

template <>
struct type_caster<dlbridge::Loan> : dlbridge::detail::ArgumentCaster<dlbridge::Loan> {
  static constexpr auto Name = io_name("typing.Any", "dlbridge.Tensor");
  static handle from_cpp(Value&& loan, rv_policy, cleanup_list*) noexcept {
    return dlbridge::detail::give(std::move(loan));
  }
};

template <>
struct type_caster<std::optional<dlbridge::Loan>>
    : dlbridge::detail::ArgumentCaster<std::optional<dlbridge::Loan>> {
  static constexpr auto Name = io_name("typing.Any", "dlbridge.Tensor | None");
  static handle from_cpp(Value&& loan, rv_policy, cleanup_list*) noexcept {
    return loan ? dlbridge::detail::give(std::move(*loan)) : none().release();
  }
};

template <>
struct type_caster<dlbridge::TensorView> : dlbridge::detail::ArgumentCaster<dlbridge::TensorView> {
  static constexpr auto Name = const_name("typing.Any");
};

template <>
struct type_caster<std::optional<dlbridge::TensorView>>
    : dlbridge::detail::ArgumentCaster<std::optional<dlbridge::TensorView>> {
  static constexpr auto Name = const_name("typing.Any");
};

}  // namespace nanobind::detail
