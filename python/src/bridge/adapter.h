// SPDX-License-Identifier: Apache-2.0
// Adapter: the table of functions that a framework's extension module gives to _core in a capsule.
// _core links no adapter and knows none by name.
//
// Every function is noexcept and called with the GIL held. Functions that return Error* return null
// on success, or an Error that the caller owns; after an Error nothing was consumed or leaked. The
// code python_exception means that a Python exception is set. Slots marked "optional" may be null.
#pragma once

#include <Python.h>

#include <cstdint>

#include "dlbridge/error.h"
#include "dlbridge/loan.h"
#include "dlbridge/plan.h"
#include "support/errors.h"

namespace dlbridge::python {

inline constexpr const char* kAdapterCapsule = "dlbridge.adapter";

struct Adapter {
  /// Size of this struct and address of neutral_traits(): both modules are of one build and use the
  /// same libdlbridge.
  uint32_t struct_size = sizeof(Adapter);
  const void* core = &neutral_traits();
  const TargetTraits* traits = nullptr;
  /// Exact types that are taken without a call of accepts(); null where there are fewer.
  PyTypeObject* exact_types[2] = {nullptr, nullptr};
  /// Casts run on several threads: preferred where both sides can cast.
  bool threaded_casts = false;

  /// Returns true if `x` is an object of this framework, subclasses included. Decides by the real
  /// type: `__class__` may claim another. Null in adapters that are not registered.
  bool (*accepts)(PyObject* x) noexcept = nullptr;
  /// Fills a loan that owns nothing; sets `original` where the original storage is known already.
  /// Null where sources/ fills it itself.
  Error* (*describe)(PyObject* x, Loan* loan) noexcept = nullptr;
  /// Makes a described loan an owning one.
  Error* (*acquire)(PyObject* x, Loan* loan) noexcept = nullptr;
  /// Optional. Writes a new reference to an object over the original storage of a described loan,
  /// or null where that storage is gone or another framework's.
  Error* (*reuse_storage)(Loan* loan, PyObject** out) noexcept = nullptr;
  /// Writes a new reference to an object over the loan's memory; consumes the loan.
  Error* (*wrap)(Loan* loan, PyObject** out) noexcept = nullptr;
  /// Optional; where the traits have raises_on_write. The same over read-only host memory, or
  /// memory that may be: a write to it does what `on_write` says.
  Error* (*wrap_guarded)(Loan* loan, OnWrite on_write, PyObject** out) noexcept = nullptr;
  /// Allocates host memory: a new reference, and a borrowed writable view of it.
  Error* (*empty)(const TensorView* like, DLDataType dtype, PyObject** out,
                  Loan* memory) noexcept = nullptr;
  /// Optional. Completes an object of `empty` after it was filled: takes that reference, writes a
  /// new one.
  Error* (*finish)(PyObject* made, PyObject** out) noexcept = nullptr;
  /// Optional. Writes the elements of `x` into memory, casting.
  Error* (*fill)(PyObject* x, const TensorView* dst) noexcept = nullptr;
  /// Optional. Casts between two memories.
  Error* (*cast)(const TensorView* src, const TensorView* dst) noexcept = nullptr;
  /// Optional. Writes the DLPack type that a dtype= argument names.
  Error* (*parse_dtype)(PyObject* dtype, DLDataType* out) noexcept = nullptr;
  /// Optional. Loads a package that widens the traits; returns true if they grew.
  bool (*extend)() noexcept = nullptr;

  // ---- Devices. Streams are numbered as DLPack does (device_module.h). All optional.

  /// Writes the stream after which the elements of `x` are valid. `x` null: the stream on which the
  /// framework enqueues work now.
  Error* (*current_stream)(PyObject* x, int32_t device, intptr_t* out) noexcept = nullptr;
  /// The elements of `x` are valid after `stream` from here on.
  void (*set_stream)(PyObject* x, intptr_t stream) noexcept = nullptr;
  /// Returns true if the framework can allocate on a device now.
  bool (*has_device)() noexcept = nullptr;
  /// Allocates device memory in the order of current_stream: a new reference, dense strides.
  Error* (*device_empty)(const TensorView* like, DLDataType dtype, int32_t device,
                         PyObject** out) noexcept = nullptr;
  /// The framework's allocator does not reuse the memory of `x` before the work that `stream` holds
  /// when `x` is freed has run.
  Error* (*record_stream)(PyObject* x, int32_t device, intptr_t stream) noexcept = nullptr;
  /// Writes a new reference to the same elements in memory that DLPack can describe (no conj bit,
  /// no copy-on-write ...), on the device of `x`; `x` itself where there is nothing to do.
  Error* (*materialize)(PyObject* x, PyObject** out) noexcept = nullptr;
  /// Writes a new reference to an object with shape, strides and dtype of `like` over the memory of
  /// `bytes`, a one-dimensional uint8 object of device_empty, from byte `offset` on.
  Error* (*piece)(PyObject* bytes, const TensorView* like, int64_t offset,
                  PyObject** out) noexcept = nullptr;
};

}  // namespace dlbridge::python
