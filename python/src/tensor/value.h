// SPDX-License-Identifier: Apache-2.0
// Tensor: the neutral handle that from_dlpack() returns, and its adapter.
#pragma once

#include <Python.h>

#include "bridge/adapter.h"
#include "dlbridge/loan.h"

namespace dlbridge::python {

/// The Python object dlbridge.Tensor. Its loan lies in the object: a handle costs no allocation but
/// its own. Needs the GIL.
struct Tensor : PyObject {
  /// Description and memory. The deleter counts from the first call of reference() on.
  Loan loan;
  /// The stream after which elements on a device are valid, as DLPack numbers it; 0: unknown.
  intptr_t stream;

  const TensorView& view() const noexcept { return loan.view(); }
  /// A further reference to the memory. Throws std::bad_alloc.
  Deleter reference();
  /// The deleter of the original storage, as Loan::original.
  Deleter original() const noexcept { return loan.original ? loan.original : loan.deleter(); }
  /// A loan over the same memory with a reference of its own. Throws std::bad_alloc.
  Loan share();
};
static_assert(sizeof(Tensor) <= 264);

/// The Python class, made by bind_tensor(). No instance is of a derived class.
extern PyTypeObject* tensor_type;

/// Its tp_dealloc.
void deallocate_tensor(PyObject* self);

/// Registers the adapter. Requires: tensor_type.
void register_tensor_adapter();

/// A new Tensor that owns `loan`. Throws; the loan then keeps its memory.
PyObject* new_tensor(Loan&& loan);

/// A new Tensor over the host memory of `x`, described in place; null where that needs more than a
/// plain share. Throws.
PyObject* share_as_tensor(PyObject* x);

/// The Tensor that `x` is. Requires: tensor_adapter().accepts(x).
inline Tensor& unpack_tensor(PyObject* x) noexcept { return *static_cast<Tensor*>(x); }

/// The same. Throws Error (unsupported_type) where `x` is null or no Tensor.
Tensor& expect_tensor(PyObject* x);

/// The adapter that makes and takes Tensors.
const Adapter& tensor_adapter() noexcept;

}  // namespace dlbridge::python
