// SPDX-License-Identifier: Apache-2.0
#include "sources/exchange_table.h"

#include <dlpack/dlpack.h>

#include <string>

#include "bridge/device_module.h"
#include "dlbridge/managed_tensor.h"
#include "sources/capsule.h"
#include "support/errors.h"
#include "support/reference.h"

namespace dlbridge::python {
namespace {

Error* acquired_already(PyObject*, Loan*) noexcept { return nullptr; }

const Adapter g_exchange_adapter{.traits = &neutral_traits(), .acquire = acquired_already};

}  // namespace

void take_through_table(const DLPackExchangeAPI& table, PyObject* x, Loan& loan) {
  DLManagedTensorVersioned* managed = nullptr;
  if (table.managed_tensor_from_py_object_no_sync(x, &managed) != 0) {
    if (PyErr_Occurred()) throw_pending();
    throw Error(ErrorCode::framework_error, "exchange table",
                std::string(Py_TYPE(x)->tp_name) +
                    "'s exchange table failed without saying why: pass x.__dlpack__()");
  }
  const auto release = [&] {
    if (managed != nullptr) loan.attach(foreign_deleter(managed));
    const PendingException aside;
    loan.reset();
  };
  if (PyErr_Occurred()) {  // a slot that reports success and leaves an exception has failed
    release();
    throw_pending();
  }
  try {
    describe_managed(managed, loan);
  } catch (...) {
    release();
    throw;
  }
  loan.attach(foreign_deleter(managed));
}

intptr_t work_stream_of(const DLPackExchangeAPI& table, DLDevice device) noexcept {
  if (Device(device).is_host() || table.current_work_stream == nullptr) return 0;
  void* stream = nullptr;
  const PendingException aside;
  if (table.current_work_stream(device.device_type, device.device_id, &stream) != 0) {
    PyErr_Clear();
    return kLegacyStream;
  }
  return stream == nullptr ? kLegacyStream : reinterpret_cast<intptr_t>(stream);
}

const Adapter& exchange_adapter() noexcept { return g_exchange_adapter; }

}  // namespace dlbridge::python
