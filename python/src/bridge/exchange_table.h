// SPDX-License-Identifier: Apache-2.0
// The DLPack exchange table (DLPack 1.3, `__dlpack_c_exchange_api__`): a C function table on a
// Python type, for exchange without capsules and method calls.
#pragma once

#include <Python.h>
#include <dlpack/dlpack.h>

namespace dlbridge::python {

inline constexpr const char* kExchangeTableCapsule = "dlpack_exchange_api";
inline constexpr const char* kExchangeTableAttribute = "__dlpack_c_exchange_api__";

/// The table that exactly this type carries in its own dictionary: major version 1, with the slots
/// that taking a tensor needs; null where there is none (then `__dlpack__` is the way). An
/// inherited table does not count: what a subclass changes, the table of its base cannot know.
/// Borrowed, lives as long as the process. Sets no Python exception.
const DLPackExchangeAPI* exchange_table_of(PyTypeObject* type) noexcept;

}  // namespace dlbridge::python
