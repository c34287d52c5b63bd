// SPDX-License-Identifier: Apache-2.0
// The NumPy adapter: ndarray <-> Loan, without a copy.
//
// Needs an initialised interpreter and, except where said, the GIL. Arrays are passed as PyObject*,
// so that NumPy's headers stay inside this module. Runs on NumPy 1.26 and 2.x. Errors are thrown as
// dlbridge::Error; when Python itself raised, the code is python_exception and the Python error is
// set.
#pragma once

#include <Python.h>

#include "dlbridge/export.h"
#include "dlbridge/loan.h"
#include "dlbridge/plan.h"

namespace dlbridge {

/// Loads NumPy's C API. Call once, before anything else here. Throws Error (adapter_unavailable).
DLBRIDGE_API void initialize_numpy();

/// What an ndarray can hold. dtypes of ml_dtypes are missing from it until load_ml_dtypes()
/// succeeded.
DLBRIDGE_API const TargetTraits& numpy_traits() noexcept;

/// Imports ml_dtypes if it is installed and adds its dtypes. Returns true on success. Sets no
/// Python error.
DLBRIDGE_API bool load_ml_dtypes() noexcept;

/// Whether `object` is an ndarray or of a subclass.
DLBRIDGE_API bool is_ndarray(PyObject* object) noexcept;

/// Describes `array` without taking a reference. What DLPack cannot describe (foreign byte order, a
/// mask, an object dtype …) becomes a reason. `original` is that of the loan behind the array, if
/// any. Requires: is_ndarray. Throws std::bad_alloc.
DLBRIDGE_API void describe_ndarray(PyObject* array, Loan& loan);

/// Makes a described loan an owning one: it holds a new reference to `array`, which it drops on any
/// thread, with or without the GIL, and leaks once the interpreter has ended.
DLBRIDGE_API void acquire_ndarray(PyObject* array, Loan& loan) noexcept;

/// describe_ndarray(), then acquire_ndarray(). Throws Error where a reason stands against sharing.
DLBRIDGE_API Loan share_ndarray(PyObject* array);

/// A new ndarray over the loan's memory; its base owns the loan. Read-only (or unknown) memory and
/// broadcast dimensions give an array that is not writable. On success the loan is consumed; when
/// this throws, it is not.
DLBRIDGE_API PyObject* to_ndarray(Loan&& loan);

/// A fresh, uninitialised ndarray of `dtype` with the shape of `like` and dense strides in the same
/// order; `memory` becomes a borrowed, writable view of it. Returns a new reference.
DLBRIDGE_API PyObject* empty_ndarray(const TensorView& like, DLDataType dtype, Loan& memory);

/// Lets NumPy write the elements of `array` into `dst` (same shape), casting like astype: byte
/// order, alignment and odd strides are resolved on the way. Of complex elements that become real
/// ones the real part is taken, without NumPy's warning. Host memory. Releases the GIL where
/// NumPy does.
DLBRIDGE_API void fill_from_ndarray(PyObject* array, const TensorView& dst);

/// Lets NumPy cast between two host memories of the same shape. Throws Error (unsupported_dtype).
DLBRIDGE_API void cast_with_numpy(const TensorView& src, const TensorView& dst);

/// The DLPack type of anything that numpy.dtype() takes. Throws Error (invalid_dtype, byte_order).
DLBRIDGE_API DLDataType parse_numpy_dtype(PyObject* object);

}  // namespace dlbridge
