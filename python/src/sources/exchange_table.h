// SPDX-License-Identifier: Apache-2.0
// Taking tensors through the DLPack exchange table of a foreign type.
#pragma once

#include <Python.h>

#include "bridge/adapter.h"
#include "bridge/exchange_table.h"

namespace dlbridge::python {

/// Takes a tensor out of `x` through its table, validated: an owning loan. Throws, also what the
/// producer raises; nothing is held then.
void take_through_table(const DLPackExchangeAPI& table, PyObject* x, Loan& loan);

/// The stream that a table's framework enqueues on for this device now; 0 for host memory.
intptr_t work_stream_of(const DLPackExchangeAPI& table, DLDevice device) noexcept;

/// The adapter for loans that take_through_table() filled: they are owning already.
const Adapter& exchange_adapter() noexcept;

}  // namespace dlbridge::python
