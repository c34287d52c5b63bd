// SPDX-License-Identifier: Apache-2.0
#include "convert/call.h"

#include <array>
#include <span>

#include "bridge/registry.h"
#include "convert/arguments.h"
#include "tensor/value.h"

namespace dlbridge::python {
namespace {

// Those of to_numpy, of to_torch and of from_dlpack lie side by side.
constexpr std::array kKeywords{Keyword{"out", &CallArguments::out},
                               Keyword{"copy", &CallArguments::copy},
                               Keyword{"device", &CallArguments::device},
                               Keyword{"order", &CallArguments::order},
                               Keyword{"dtype", &CallArguments::dtype},
                               Keyword{"assume_writable", &CallArguments::assume_writable},
                               Keyword{"on_write", &CallArguments::on_write}};

struct Signature {
  const char* name;
  std::span<const Keyword> keywords;
};
constexpr Signature signature_of(Function function) noexcept {
  switch (function) {
    case Function::to_numpy:
      return {"to_numpy", std::span(kKeywords).first(6)};
    case Function::to_torch:
      return {"to_torch", std::span(kKeywords).last(6)};
    case Function::from_dlpack:
      break;
  }
  return {"from_dlpack", std::span(kKeywords).subspan(1, 3)};
}

const Adapter& target_of(Function function) {
  if (function == Function::from_dlpack) return tensor_adapter();
  return adapter_named(function == Function::to_numpy ? "numpy" : "torch");
}

// Returns true for f(x, copy=True), the most frequent call with a keyword. Names in code are
// interned; others are read as all keywords are.
bool names_copy_alone(PyObject* const* args, Py_ssize_t nargs, PyObject* names) noexcept {
  static PyObject* const copy = PyUnicode_InternFromString("copy");
  return nargs == 1 && names != nullptr && PyTuple_GET_SIZE(names) == 1 &&
         PyTuple_GET_ITEM(names, 0) == copy && args[1] == Py_True;
}

}  // namespace

PyObject* call_slow(Function function, const Adapter*& target, PyObject* const* args,
                    Py_ssize_t nargs, PyObject* names) noexcept {
  return translated([&] {
    if (target == nullptr) target = &target_of(function);
    if (names_copy_alone(args, nargs, names)) {
      const Reference array = array_of_scalar(args[0], true);
      return convert(array ? array.get() : args[0], *target, {.copy = CopyMode::always});
    }
    const Signature signature = signature_of(function);
    const CallArguments call = read_call(signature.name, args, nargs, names, signature.keywords);
    const Request request = read_request(call, *target);
    const bool into = call.out != nullptr && call.out != Py_None;
    const Reference array = array_of_scalar(call.x, into || request.copy >= CopyMode::if_needed);
    PyObject* x = array ? array.get() : call.x;
    return into ? convert_into(x, *target, request, call.out) : convert(x, *target, request);
  });
}

}  // namespace dlbridge::python
