// dlbridge._core: the entry points. Plain METH_FASTCALL functions where nanoseconds count, nanobind
// for the rest.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>

#include "bridge/device_module.h"
#include "bridge/registry.h"
#include "convert/arguments.h"
#include "convert/convert.h"
#include "dlbridge/layout.h"
#include "gpu/future.h"
#include "sources/capsule.h"
#include "support/errors.h"
#include "tensor/value.h"
#include "torch/by_dlpack.h"

namespace nb = nanobind;

namespace dlbridge::python {
namespace {

// The request of a call with one positional argument.
constexpr Request kNothingNamed;

constexpr std::array kToTorchKeywords{Keyword{"device", &CallArguments::device},
                                      Keyword{"dtype", &CallArguments::dtype},
                                      Keyword{"copy", &CallArguments::copy}};
constexpr std::array kToNumpyKeywords{
    Keyword{"device", &CallArguments::device}, Keyword{"dtype", &CallArguments::dtype},
    Keyword{"copy", &CallArguments::copy}, Keyword{"out", &CallArguments::out}};
constexpr std::array kFromDlpackKeywords{Keyword{"device", &CallArguments::device},
                                         Keyword{"copy", &CallArguments::copy}};
constexpr std::array kExplainKeywords{
    Keyword{"to", &CallArguments::to}, Keyword{"device", &CallArguments::device},
    Keyword{"dtype", &CallArguments::dtype}, Keyword{"copy", &CallArguments::copy}};

// The general way: everything but a call with one positional argument.
PyObject* convert_call(const char* function, const Adapter& target, PyObject* const* args,
                       Py_ssize_t nargs, PyObject* names,
                       std::span<const Keyword> keywords) noexcept {
  CallArguments call;
  if (!read_call(function, args, nargs, names, keywords, call)) return nullptr;
  try {
    const Request request = read_request(call, target);
    if (call.out != nullptr && call.out != Py_None)
      return convert_into(call.x, target, request, call.out);
    return convert(call.x, target, request);
  } catch (const Error& error) {
    return raise(error);
  }
}

// An adapter that is looked up once.
const Adapter* cached(const Adapter*& slot, const char* name) noexcept {
  if (slot == nullptr) [[unlikely]]
    slot = adapter_named(name);
  return slot;
}

PyObject* to_torch(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  static const Adapter* target = nullptr;
  if (cached(target, "torch") == nullptr) return nullptr;
  if (nargs == 1 && names == nullptr) [[likely]]
    return convert(args[0], *target, kNothingNamed);
  return convert_call("to_torch", *target, args, nargs, names, kToTorchKeywords);
}

PyObject* to_numpy(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  static const Adapter* target = nullptr;
  if (cached(target, "numpy") == nullptr) return nullptr;
  if (nargs == 1 && names == nullptr) [[likely]]
    return convert(args[0], *target, kNothingNamed);
  return convert_call("to_numpy", *target, args, nargs, names, kToNumpyKeywords);
}

PyObject* from_dlpack(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  if (nargs == 1 && names == nullptr) [[likely]]
    return convert(args[0], tensor_adapter(), kNothingNamed);
  return convert_call("from_dlpack", tensor_adapter(), args, nargs, names, kFromDlpackKeywords);
}

// The answer of explain(): the plan in words.
struct Explanation {
  std::string verdict;
  std::vector<std::string> reasons;
  int64_t bytes;
  std::vector<std::string> path;
  std::string message;
};

std::string repr(const Explanation& plan) {
  std::string text = "dlbridge.Plan(" + plan.verdict;
  for (size_t i = 0; i < plan.reasons.size(); ++i)
    text += (i == 0 ? ", reasons=" : "+") + plan.reasons[i];
  return text + ", bytes=" + std::to_string(plan.bytes) + "): " + plan.message;
}

// The steps of the staging that a plan has, after its name.
void add_staging_steps(const Source& source, const Request& request,
                       std::vector<std::string>& steps) {
  const DeviceModule* module = usable_device_module();
  std::vector<std::string> found;
  if (module == nullptr || Failure(module->steps(&source.view(), *request.device, &found))) return;
  const auto stage = std::find_if(steps.begin(), steps.end(), [](const std::string& step) {
    return step.starts_with("stage ");
  });
  if (stage != steps.end()) steps.insert(stage + 1, found.begin(), found.end());
}

Explanation explain_source(Source& source, const Adapter& target, Request request) {
  take_managed_as_host(source, target);
  const Plan decision = plan_for(source, target, request);
  Explanation answer;
  answer.verdict = name(decision.verdict);
  ReasonSet left = decision.reasons;
  while (!left.empty()) {
    answer.reasons.emplace_back(name(left.first()));
    left = left.without(left.first());
  }
  answer.bytes = decision.bytes;
  answer.path = path(source.view(), request, decision);
  if (decision.stages && !answer.path.empty()) add_staging_steps(source, request, answer.path);
  answer.message = decision.verdict == Verdict::refuse
                       ? refusal_of(source, target, request, decision).what()
                       : describe(source.view(), *target.traits, request, decision);
  return answer;
}

PyObject* explain(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  CallArguments call;
  if (!read_call("explain", args, nargs, names, kExplainKeywords, call)) return nullptr;
  try {
    const Adapter& target = parse_target(call.to, "\"torch\", \"numpy\" or \"dlpack\"");
    const Request request = read_request(call, target);
    Source source;
    if (!source.open(call.x)) return nullptr;
    return nb::cast(explain_source(source, target, request)).release().ptr();
  } catch (const Error& error) {
    return raise(error);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

// What a source may say of itself while its layout is still true. Everything else leaves no layout
// to compare.
constexpr ReasonSet kLayoutKnown = ReasonSet(ErrorCode::requires_grad) | ErrorCode::conj_bit |
                                   ErrorCode::neg_bit | ErrorCode::zero_tensor |
                                   ErrorCode::copy_on_write | ErrorCode::byte_order |
                                   ErrorCode::masked_array | ErrorCode::writeback_if_copy;

bool has_layout(const Source& source) {
  Plan refused;
  refused.reasons = source.view().reasons.without(kLayoutKnown);
  if (refused.reasons.empty()) return true;
  raise(refusal(source.view(), neutral_traits(), {}, refused));
  return false;
}

PyObject* shares_memory(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 2) return raise_type_error("shares_memory() takes two arguments, a and b");
  Source a;
  Source b;
  if (!a.open(args[0]) || !b.open(args[1]) || !has_layout(a) || !has_layout(b)) return nullptr;
  return PyBool_FromLong(elements_intersect(a.view(), b.view()));
}

PyObject* register_capsule(PyObject*, PyObject* capsule) { return register_adapter(capsule); }

template <typename Function>
PyCFunction as_c_function(Function* function) noexcept {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

constexpr int kFast = METH_FASTCALL | METH_KEYWORDS;
PyMethodDef g_functions[] = {
    {"to_torch", as_c_function(to_torch), kFast,
     "to_torch(x, /, *, device=None, dtype=None, copy=<not given>)\n--\n\n"
     "A torch.Tensor over the memory of x, or a refusal that names the call that works."},
    {"to_numpy", as_c_function(to_numpy), kFast,
     "to_numpy(x, /, *, device=None, dtype=None, copy=<not given>, out=None)\n--\n\n"
     "A numpy.ndarray over the memory of x, or a refusal that names the call that works."},
    {"from_dlpack", as_c_function(from_dlpack), kFast,
     "from_dlpack(x, /, *, device=None, copy=<not given>)\n--\n\n"
     "A dlbridge.Tensor over the memory of x: an array, a tensor, any DLPack producer or capsule."},
    {"explain", as_c_function(explain), kFast,
     "explain(x, to, *, device=None, dtype=None, copy=<not given>)\n--\n\n"
     "What a conversion would do and why, without doing it: a Plan."},
    {"shares_memory", as_c_function(shares_memory), METH_FASTCALL,
     "shares_memory(a, b, /)\n--\n\nWhether two objects of any frameworks have a byte of an "
     "element in common."},
    {"_register_adapter", register_capsule, METH_O, "Takes the capsule of an adapter module."},
    {"_register_device_module", register_device_module, METH_O,
     "Takes the capsule of a device module."},
    {"_register_torch_by_dlpack", register_torch_by_dlpack, METH_O,
     "Makes the tier of this name (exchange, protocol) torch's adapter."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

NB_MODULE(_core, module) {
  module.doc() = "The entry points of dlbridge.";
  nb::class_<Explanation>(module, "Plan", "What a conversion will do: the answer of explain().")
      .def_ro("verdict", &Explanation::verdict, "'share', 'copy', 'cast', 'stage' or 'refuse'.")
      .def_ro("reasons", &Explanation::reasons, "Codes: what stands against sharing.")
      .def_ro("bytes", &Explanation::bytes,
              "Bytes written into new memory; 0 when shared. When refused: what the remedy would "
              "copy.")
      .def_ro("path", &Explanation::path, "The steps, in order; empty when refused.")
      .def_ro("message", &Explanation::message, "One sentence; when refused, the error's.")
      .def("__repr__", repr);
  bind_tensor(module.ptr());
  bind_staging(module);
  nb::module_::import_("atexit").attr("register")(
      nb::cpp_function(end_foreign_releases, nb::call_guard<nb::gil_scoped_release>()));
  if (PyModule_AddFunctions(module.ptr(), g_functions) < 0) throw nb::python_error();
}

}  // namespace dlbridge::python
