#include "convert/call.h"

#include <array>

#include "bridge/registry.h"
#include "convert/arguments.h"
#include "convert/convert.h"
#include "tensor/value.h"

namespace dlbridge::python {
namespace {

// The request of a call with one positional argument.
constexpr Request kNothingNamed;

constexpr std::array kToTorch{Keyword{"device", &CallArguments::device},
                              Keyword{"dtype", &CallArguments::dtype},
                              Keyword{"copy", &CallArguments::copy}};
constexpr std::array kToNumpy{
    Keyword{"device", &CallArguments::device}, Keyword{"dtype", &CallArguments::dtype},
    Keyword{"copy", &CallArguments::copy}, Keyword{"out", &CallArguments::out}};
constexpr std::array kFromDlpack{Keyword{"device", &CallArguments::device},
                                 Keyword{"copy", &CallArguments::copy}};

// Every call but one with a single positional argument.
[[gnu::noinline]] PyObject* call(const char* function, const Adapter& target, PyObject* const* args,
                                 Py_ssize_t nargs, PyObject* names,
                                 std::span<const Keyword> keywords) {
  CallArguments call = read_call(function, args, nargs, names, keywords);
  const Request request = read_request(call, target);
  if (call.out != nullptr && call.out != Py_None)
    return convert_into(call.x, target, request, call.out);
  const Reference array = array_of_scalar(call.x, request);
  return convert(array ? array.get() : call.x, target, request);
}

// An adapter that is looked up once.
const Adapter& cached(const Adapter*& slot, const char* name) {
  if (slot == nullptr) [[unlikely]]
    slot = &adapter_named(name);
  return *slot;
}

}  // namespace

PyObject* call_to_torch(PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  static const Adapter* slot = nullptr;
  const Adapter& target = cached(slot, "torch");
  if (nargs == 1 && names == nullptr) [[likely]]
    return convert(args[0], target, kNothingNamed);
  return call("to_torch", target, args, nargs, names, kToTorch);
}

PyObject* call_to_numpy(PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  static const Adapter* slot = nullptr;
  const Adapter& target = cached(slot, "numpy");
  if (nargs == 1 && names == nullptr) [[likely]]
    return convert(args[0], target, kNothingNamed);
  return call("to_numpy", target, args, nargs, names, kToNumpy);
}

PyObject* call_from_dlpack(PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  if (nargs == 1 && names == nullptr) [[likely]]
    return convert(args[0], tensor_adapter(), kNothingNamed);
  return call("from_dlpack", tensor_adapter(), args, nargs, names, kFromDlpack);
}

}  // namespace dlbridge::python
