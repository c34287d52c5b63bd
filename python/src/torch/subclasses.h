// SPDX-License-Identifier: Apache-2.0
// Kinds of tensors that torch writes in Python: what is refused of them, for both tiers.
#pragma once

#include <Python.h>

#include <string_view>

#include "dlbridge/tensor_view.h"

namespace dlbridge::python {

/// Completes the description of `x`, a tensor with reasons or without memory, by its type.
inline void describe_subclass(PyObject* x, TensorView& view) noexcept {
  static constexpr ReasonDetail kUninitialized{nullptr, "call x.materialize(shape) first"};
  static constexpr ReasonDetail kMasked{
      nullptr, "pass x.to_tensor(value), or x.get_data() and x.get_mask()"};
  const std::string_view type = Py_TYPE(x)->tp_name;
  if (type == "UninitializedParameter" || type == "UninitializedBuffer") {
    view.reasons = ErrorCode::undefined_tensor;
    view.detail = &kUninitialized;
  } else if (type == "MaskedTensor") {
    view.detail = &kMasked;
  }
}

}  // namespace dlbridge::python
