// Python arguments -> what they mean.
#pragma once

#include <Python.h>

#include <optional>
#include <span>

#include "bridge/adapter.h"

namespace dlbridge::python {

/// What to_torch, to_numpy, from_dlpack and explain were called with. Pointers are borrowed, null
/// if not given.
struct CallArguments {
  PyObject* x = nullptr;
  PyObject* to = nullptr;
  PyObject* device = nullptr;
  PyObject* dtype = nullptr;
  PyObject* copy = nullptr;
  PyObject* out = nullptr;
};

/// One keyword that a function takes, and where its value goes.
struct Keyword {
  const char* name;
  PyObject* CallArguments::* member;
};

/// Reads a METH_FASTCALL | METH_KEYWORDS call with exactly one positional argument (`to` may be a
/// second one where it is among the keywords). False with TypeError set.
bool read_call(const char* function, PyObject* const* args, Py_ssize_t nargs, PyObject* names,
               std::span<const Keyword> keywords, CallArguments& call) noexcept;

/// True -> always, False -> never, None -> if_needed. Throws Error (python_exception) with
/// TypeError set.
CopyMode parse_copy(PyObject* copy);

/// None, "cpu", "cuda:1", (type, id), or an object with `type` and `index` such as torch.device.
/// Throws Error (invalid_device).
std::optional<DLDevice> parse_device(PyObject* device);

/// The adapter that "numpy", "torch" or "dlpack" names, loaded if need be. Throws Error
/// (invalid_argument), which says that `expected` is; python_exception where it cannot be loaded.
const Adapter& parse_target(PyObject* to, const char* expected);

/// What the call named, for `target`. Throws Error.
Request read_request(const CallArguments& call, const Adapter& target);

/// Checks of Tensor.__dlpack__'s arguments. Throw Error.
bool wants_versioned(PyObject* max_version);
/// The device that a capsule of memory at `place` names: the CPU, where dl_device asks for it and
/// `place` is any host memory.
DLDevice export_device(PyObject* dl_device, DLDevice place);

}  // namespace dlbridge::python
