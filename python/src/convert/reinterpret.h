// SPDX-License-Identifier: Apache-2.0
// from_buffer(): the bytes of a source as elements of another dtype and shape.
#pragma once

#include <Python.h>

namespace dlbridge::python {

/// from_buffer(x, /, dtype, shape=None, offset=0), METH_VARARGS | METH_KEYWORDS: a new Tensor over
/// the contiguous host memory of `x`, from `offset` bytes on; read-only where that is. Errors
/// (ExchangeError): invalid_dtype, invalid_argument (shape, offset, a source that is not
/// contiguous), device_not_named, and those of the source.
PyObject* from_buffer(PyObject* module, PyObject* args, PyObject* keywords) noexcept;

}  // namespace dlbridge::python
