// SPDX-License-Identifier: Apache-2.0
// __cuda_array_interface__, versions 2 and 3: taking objects that have it and no __dlpack__.
// tensor/cuda_array.cpp offers ours.
// https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
#pragma once

#include <Python.h>

#include <utility>

#include "bridge/adapter.h"
#include "dlbridge/dtype.h"

namespace dlbridge::python {

inline constexpr const char* kCudaArrayAttribute = "__cuda_array_interface__";

/// The letters of NumPy's type strings, such as 'f' in "<f4".
inline constexpr std::pair<char, TypeCode> kTypestrKinds[] = {{'b', TypeCode::boolean},
                                                              {'i', TypeCode::int_},
                                                              {'u', TypeCode::uint},
                                                              {'f', TypeCode::float_},
                                                              {'c', TypeCode::complex}};

/// Describes the memory that `interface` names in a loan that owns nothing, and the stream after
/// which its elements are valid; where it names none: the legacy stream.
void describe_cuda_array(PyObject* interface, Loan& loan, intptr_t& stream);

/// The adapter of such objects: acquire() holds a reference to the object.
const Adapter& cuda_array_adapter() noexcept;

}  // namespace dlbridge::python
