// SPDX-License-Identifier: Apache-2.0
// Python arguments -> what they mean.
#pragma once

#include <Python.h>

#include <optional>
#include <span>
#include <vector>

#include "bridge/adapter.h"

namespace dlbridge::python {

/// Reads a METH_VARARGS | METH_KEYWORDS call as `format` says; what was not given stays.
template <typename... Out>
void read(PyObject* args, PyObject* keywords, const char* format, const char* const* names,
          Out*... out) {
  if (PyArg_ParseTupleAndKeywords(args, keywords, format, const_cast<char**>(names), out...) == 0)
    throw_pending();
}

/// A function of Python's for a PyMethodDef.
template <typename Function>
PyCFunction as_c_function(Function* function) noexcept {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

/// What to_torch, to_numpy, from_dlpack and explain were called with. Pointers are borrowed, null
/// if not given.
struct CallArguments {
  PyObject* x = nullptr;
  PyObject* to = nullptr;
  PyObject* device = nullptr;
  PyObject* dtype = nullptr;
  PyObject* copy = nullptr;
  PyObject* out = nullptr;
  PyObject* order = nullptr;
  PyObject* on_write = nullptr;
  PyObject* assume_writable = nullptr;
};

/// One keyword that a function takes, and where its value goes.
struct Keyword {
  const char* name;
  PyObject* CallArguments::* member;
};

/// Reads a METH_FASTCALL | METH_KEYWORDS call with exactly one positional argument (`to` may be the
/// second one where it is among the keywords). Throws Error (unsupported_type).
CallArguments read_call(const char* function, PyObject* const* args, Py_ssize_t nargs,
                        PyObject* names, std::span<const Keyword> keywords);

/// True: always. False: never. None: if_needed. "named": unset. Throws Error (unsupported_type).
CopyMode parse_copy(PyObject* copy);

/// "raise", "copy" or None. Throws Error (invalid_argument).
OnWrite parse_on_write(PyObject* on_write);

/// "C": true. "K": false. Throws Error (invalid_argument).
bool parse_row_major(PyObject* order);

/// None, "cpu", "cuda:1", (type, id), or an object with `type` and `index` such as torch.device.
/// Throws Error (invalid_device).
std::optional<DLDevice> parse_device(PyObject* device);

/// The same where only the CPU and CUDA devices will do.
std::optional<DLDevice> parse_cpu_or_cuda(PyObject* device);

/// True or False.
bool parse_bool(const char* name, PyObject* value);

/// A shape: an integer, or an iterable of integers.
std::vector<int64_t> parse_shape(PyObject* shape);

/// The adapter that a name such as "numpy" means, loaded if need be. Throws Error
/// (invalid_argument).
const Adapter& parse_target(PyObject* to);

/// What the call named, for `target`. Throws Error.
Request read_request(const CallArguments& call, const Adapter& target);

/// A new array that holds `x`, a scalar of Python or NumPy that is no producer, where the call
/// names a copy; else null.
Reference array_of_scalar(PyObject* x, bool copy_named);

/// Checks of Tensor.__dlpack__'s arguments. Throw Error.
bool wants_versioned(PyObject* max_version);
/// The device that a capsule of memory at `place` names: the CPU, where dl_device asks for it and
/// `place` is any host memory.
DLDevice export_device(PyObject* dl_device, DLDevice place);

}  // namespace dlbridge::python
