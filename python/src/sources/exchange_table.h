// The DLPack exchange table (DLPack 1.3, `__dlpack_c_exchange_api__`): a C function table on a
// Python type, for exchange without capsules and method calls. Taken from foreign types, offered on
// dlbridge.Tensor.
#pragma once

#include <Python.h>

#include "bridge/adapter.h"

namespace dlbridge::python {

/// The table that exactly this type carries in its own dictionary: major version 1, with the slots
/// that taking a tensor needs; null where there is none (then `__dlpack__` is the way). An
/// inherited table does not count: what a subclass changes, the table of its base cannot know.
/// Borrowed, lives as long as the process. Sets no Python exception.
const DLPackExchangeAPI* exchange_table_of(PyTypeObject* type) noexcept;

/// Takes a tensor out of `x` through its table, validated: a described loan with an owner. On
/// failure nothing is held and a Python exception is set; the producer's own passes through.
bool take_through_table(const DLPackExchangeAPI& table, PyObject* x, Loan& loan) noexcept;

/// The stream that a table's framework enqueues on for this device now; 0 for host memory.
intptr_t work_stream_of(const DLPackExchangeAPI& table, DLDevice device) noexcept;

/// The adapter for loans that take_through_table() filled: they are lent already.
const Adapter& exchange_adapter() noexcept;

/// A capsule of the table of dlbridge.Tensor, the same address for the life of the process. Null
/// with a Python exception set.
PyObject* new_exchange_capsule() noexcept;

}  // namespace dlbridge::python
