// SPDX-License-Identifier: Apache-2.0
// DLPack capsules: making them, and taking them as a source.
#pragma once

#include <Python.h>

#include <optional>

#include "bridge/adapter.h"
#include "dlbridge/device.h"
#include "dlbridge/dlpack.h"
#include "support/reference.h"

namespace dlbridge::python {

/// A new capsule that owns the loan ("dltensor_versioned" or "dltensor"). Throws Error (read_only
/// and others) where a legacy capsule cannot say what is known of the memory.
PyObject* to_capsule(Loan&& loan, bool versioned);

/// Returns true if `x` is a PyCapsule of any name.
inline bool is_capsule(PyObject* x) noexcept { return PyCapsule_CheckExact(x); }

/// The adapter whose objects are unconsumed capsules: describe and acquire, which consumes.
const Adapter& capsule_adapter() noexcept;

/// Keeps a capsule from being consumed by other threads while its memory is copied: it has the name
/// of a used one until the end of the scope. Does nothing to other objects. Needs the GIL at both
/// ends.
class HeldCapsule {
 public:
  /// Throws Error (capsule_used) where it was consumed before.
  explicit HeldCapsule(PyObject* x);
  HeldCapsule(const HeldCapsule&) = delete;
  HeldCapsule& operator=(const HeldCapsule&) = delete;
  ~HeldCapsule();

 private:
  PyObject* capsule_ = nullptr;
  const char* name_ = nullptr;
};

/// Calls the deleter of a foreign tensor, which may be Python code: where the releasing thread
/// holds the GIL, a pending exception is put aside meanwhile (docs/reference/rules.md#44, #59).
Deleter foreign_deleter(DLManagedTensorVersioned* managed) noexcept;

/// The interpreter is about to end: waits for deleters that run on threads of dlbridge's; from here
/// on such threads leak what they would release. Call without the GIL.
void end_foreign_releases() noexcept;

/// x.__dlpack__, or null where x has none or it is None. Throws what its getter raises.
Reference dlpack_method_of(PyObject* x);

/// Calls `method`, x.__dlpack__, with max_version=(1, 3) and, unless it is 0, `stream`; without
/// arguments where the producer is too old to know them, but never without a stream that was to be
/// passed. Throws what the producer raises.
Reference call_dlpack(PyObject* x, PyObject* method, intptr_t stream);

/// The device of a pair of 32-bit integers, DLPack's type and id; nothing where `pair` is none.
std::optional<Device> device_of_pair(PyObject* pair);

/// What x.__dlpack_device__() returns; nothing where x has no such method or it does not return two
/// integers. Throws what it raises.
std::optional<Device> dlpack_device_of(PyObject* x);

}  // namespace dlbridge::python
