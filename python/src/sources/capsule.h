// DLPack capsules: making them, and taking them as a source.
#pragma once

#include <Python.h>

#include <optional>

#include "bridge/adapter.h"
#include "dlbridge/device.h"
#include "dlbridge/dlpack.h"
#include "support/reference.h"

namespace dlbridge::python {

/// A new capsule that owns the loan ("dltensor_versioned" or "dltensor"); null with a Python
/// exception set. Throws Error (read_only) for a legacy capsule of memory that may not be written,
/// std::bad_alloc.
PyObject* to_capsule(Loan&& loan, bool versioned);

/// Whether `x` is a PyCapsule of any name.
inline bool is_capsule(PyObject* x) noexcept { return PyCapsule_CheckExact(x); }

/// The adapter whose objects are unconsumed capsules. It describes and lends (which consumes the
/// capsule), no more.
const Adapter& capsule_adapter() noexcept;

/// Keeps a capsule from being consumed while its memory is copied, which other threads may run
/// beside: it goes under the name of a used one and gets its own back at the end of the scope. Does
/// nothing to other objects. Needs the GIL at both ends.
class HeldCapsule {
 public:
  explicit HeldCapsule(PyObject* x) noexcept;
  HeldCapsule(const HeldCapsule&) = delete;
  HeldCapsule& operator=(const HeldCapsule&) = delete;
  ~HeldCapsule();

  /// False where it was consumed before; a Python exception is then set.
  explicit operator bool() const noexcept { return held_; }

 private:
  PyObject* capsule_ = nullptr;
  const char* name_ = nullptr;
  bool held_ = true;
};

/// The share that owning a foreign tensor is. Its deleter may be Python code: where the releasing
/// thread holds the GIL, a pending exception is put aside meanwhile (docs/reference/rules.md#44,
/// #59).
Deleter foreign_deleter(DLManagedTensorVersioned* managed) noexcept;

/// The interpreter is about to end: waits for deleters that run on threads of ours; from here on
/// such threads leak what they would give back. To be called without the GIL.
void end_foreign_releases() noexcept;

/// x.__dlpack__, or null: without a Python exception where x has none.
Reference dlpack_method_of(PyObject* x) noexcept;

/// Calls `method`, x.__dlpack__, with max_version=(1, 3) and, unless it is 0, `stream`; without
/// arguments where the producer is too old to know them, but never without a stream that was to be
/// passed. The producer's own exceptions pass through. Null with a Python exception set.
Reference call_dlpack(PyObject* x, PyObject* method, intptr_t stream) noexcept;

/// What x.__dlpack_device__() says; nothing where x has no such method or it does not answer with
/// two integers, with a Python exception set where it raised one.
std::optional<Device> dlpack_device_of(PyObject* x) noexcept;

/// TypeError: x is nothing that a conversion could start from. Returns false.
bool refuse_no_producer(PyObject* x) noexcept;

/// Whether objects of this type never let their memory be written though their capsules cannot say
/// so (JAX).
bool is_immutable_producer(PyTypeObject* type) noexcept;

}  // namespace dlbridge::python
