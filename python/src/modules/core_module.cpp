// SPDX-License-Identifier: Apache-2.0
// dlbridge._core: the entry points. Plain METH_FASTCALL functions where nanoseconds count, nanobind
// for the rest.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <climits>

#include "bridge/device_module.h"
#include "bridge/registry.h"
#include "convert/arguments.h"
#include "convert/call.h"
#include "convert/host.h"
#include "convert/reinterpret.h"
#include "dlbridge/copy.h"
#include "dlbridge/layout.h"
#include "gpu/bindings.h"
#include "sources/capsule.h"
#include "support/dtype_argument.h"
#include "tensor/exports.h"
#include "tensor/value.h"

namespace nb = nanobind;

namespace dlbridge::python {
namespace {

constexpr std::array kExplainKeywords{Keyword{"to", &CallArguments::to},
                                      Keyword{"device", &CallArguments::device},
                                      Keyword{"dtype", &CallArguments::dtype},
                                      Keyword{"copy", &CallArguments::copy},
                                      Keyword{"order", &CallArguments::order},
                                      Keyword{"on_write", &CallArguments::on_write},
                                      Keyword{"assume_writable", &CallArguments::assume_writable}};

template <Function function>
PyObject* entry(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  return call<function>(args, nargs, names);
}

// The result of explain(): the plan in words.
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

// Inserts the steps of the staging that a plan has after the step that names it.
void add_staging_steps(const Source& source, const Request& request,
                       std::vector<std::string>& steps) {
  const DeviceModule* module = usable_device_module();
  std::vector<std::string> found;
  if (module == nullptr) return;
  check(module->strategy(&source.view(), *request.device, &found));
  const auto stage = std::ranges::find_if(
      steps, [](const std::string& step) { return step.starts_with("stage "); });
  if (stage != steps.end()) steps.insert(stage + 1, found.begin(), found.end());
}

Explanation explain_source(PyObject* x, const Adapter& target, Request request) {
  Source source;
  try {
    source.open(x);
  } catch (const Error& error) {
    if (error.code() >= ErrorCode::reason_count_) throw;
    return {.verdict = "refuse",
            .reasons = {std::string(name(error.code()))},
            .bytes = 0,
            .path = {},
            .message = error.what()};
  }
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
  return translated([&] {
    const CallArguments call = read_call("explain", args, nargs, names, kExplainKeywords);
    const Adapter& target = parse_target(call.to);
    Request request = read_request(call, target);
    const Reference array = array_of_scalar(call.x, request.copy >= CopyMode::if_needed);
    if (array) request.copy = CopyMode::always;  // the scalar itself has no memory to share
    PyObject* x = array ? array.get() : call.x;
    return nb::cast(explain_source(x, target, request)).release().ptr();
  });
}

// Reasons of a source whose layout is known all the same. Others leave no layout to compare.
constexpr ReasonSet kLayoutKnown = ReasonSet(ErrorCode::requires_grad) | ErrorCode::conj_bit |
                                   ErrorCode::neg_bit | ErrorCode::zero_tensor |
                                   ErrorCode::copy_on_write | ErrorCode::byte_order |
                                   ErrorCode::masked_array | ErrorCode::writeback_if_copy;

void open_with_layout(Source& source, PyObject* x) {
  source.open(x);
  Plan refused;
  refused.reasons = source.view().reasons.without(kLayoutKnown);
  if (!refused.reasons.empty()) throw refusal_of(source, tensor_adapter(), {}, refused);
}

PyObject* shares_memory(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  return translated([&] {
    if (nargs != 2) throw_type_error("shares_memory() takes two arguments, a and b");
    Source a;
    Source b;
    open_with_layout(a, args[0]);
    open_with_layout(b, args[1]);
    return PyBool_FromLong(elements_intersect(a.view(), b.view()));
  });
}

PyObject* set_threads(PyObject*, PyObject* count) {
  return translated([&] {
    const int64_t n = integer_of(count).value_or(-1);
    if (n < 0)
      refuse_argument("n", count, PyIndex_Check(count),
                      "an integer of 64 bits from 0 on, such as 4");
    set_num_threads(static_cast<int>(std::min(n, int64_t{INT_MAX})));
    return Py_NewRef(Py_None);
  });
}

PyObject* get_threads(PyObject*, PyObject*) { return PyLong_FromLong(num_threads()); }

// Name, code, bits and lanes of each type that the target called `name` holds.
nb::list dtypes_of(const std::string& name) {
  const Adapter& target = adapter_named(name.c_str());
  if (target.extend != nullptr) target.extend();
  const TargetTraits& traits = *target.traits;
  const auto holds = [&](DType dtype) {
    return traits.every_dtype || traits.dtypes.contains(dtype) ||
           (dtype == kFloat4Pair && traits.float4 == Float4::pairs);
  };
  nb::list rows;
  for (const DType dtype : dtypes_where(holds))
    rows.append(nb::make_tuple(dtype.name(), DLDataType(dtype).code, dtype.bits(), dtype.lanes()));
  return rows;
}

// The name of the CPU or CUDA device that `device` means; None for None.
nb::object device_named(nb::handle device) {
  const auto parsed = parse_cpu_or_cuda(device.ptr());
  return parsed ? nb::object(nb::str(Device(*parsed).name().c_str())) : nb::none();
}

constexpr int kFast = METH_FASTCALL | METH_KEYWORDS;
PyMethodDef g_functions[] = {
    {"to_torch", as_c_function(entry<Function::to_torch>), kFast,
     R"(to_torch(x, /, *, device=None, dtype=None, order='K', copy='named', on_write=None, assume_writable=False)
--

Return a torch.Tensor that shares memory with `x`: the same shape, dtype and elements.

`x` is an array or tensor of any framework, a DLPack capsule or producer, or a buffer. A dict, list,
tuple or dataclass is converted leaf by leaf. Nothing is copied unless it is named: `device` and
`dtype` (in any spelling of torch or NumPy) name a copy or cast where they differ from those of `x`,
`order="C"` a row-major result. `copy` is `"named"`, `True` (always), `None` (where needed) or `False` (never).
Read-only memory is shared if `on_write` says what a write to the result does: `"raise"` an
ExchangeError, or `"copy"` the memory once, before it is written. `assume_writable=True` says
that memory of a legacy capsule, which cannot say it, may be written.

Raises ExchangeError if sharing needs a copy that is not named; its message names the call that works.
Raises TypeError for an object without elements to share.

>>> dlbridge.to_torch(np.zeros((2, 3), "float32")).shape
torch.Size([2, 3])
>>> dlbridge.to_torch(np.arange(3)[::-1], copy=None)
tensor([2, 1, 0])

.. versionadded:: 0.1.0)"},
    {"to_numpy", as_c_function(entry<Function::to_numpy>), kFast,
     R"(to_numpy(x, /, *, device=None, dtype=None, order='K', copy='named', out=None, assume_writable=False)
--

Return a numpy.ndarray that shares memory with `x`: the same shape, dtype and elements.

Arguments and errors are those of to_torch(). `device="cpu"` copies from a GPU and waits for it. `out`
is a writable array of the shape of `x` in host memory: `x` is copied into it, cast to its dtype, and
`out` is returned. Memory of a legacy capsule is a read-only array unless `assume_writable` is True.

>>> dlbridge.to_numpy(torch.zeros(2, 3)).shape
(2, 3)
>>> dlbridge.to_numpy(torch.ones(2), dtype="int8")
array([1, 1], dtype=int8)

.. versionadded:: 0.1.0)"},
    {"from_dlpack", as_c_function(entry<Function::from_dlpack>), kFast,
     R"(from_dlpack(x, /, *, device=None, order='K', copy='named')
--

Return a dlbridge.Tensor that shares memory with `x`: the same shape, dtype and elements.

Arguments and errors are those of to_torch(), without `dtype`. `device="cuda:0"` copies to a GPU.

>>> dlbridge.from_dlpack(np.zeros((2, 3))).strides
(3, 1)

.. versionadded:: 0.1.0)"},
    {"from_buffer", as_c_function(from_buffer), METH_VARARGS | METH_KEYWORDS,
     R"(from_buffer(x, /, dtype, shape=None, offset=0)
--

Return a dlbridge.Tensor over the bytes of `x`, read as elements of `dtype` from `offset` on.

`x` is bytes, any buffer, or any contiguous source in host memory; nothing is copied. `offset` counts
bytes. `shape` counts elements, and one extent may be -1; None is one dimension of all that follow.
Raises ExchangeError if `shape` does not fit, if `dtype` has no whole bytes or another byte order, and
if `x` is not contiguous or on a GPU.

>>> dlbridge.from_buffer(bytes(24), "float32", shape=(2, -1)).shape
(2, 3)

.. versionadded:: 0.1.0)"},
    {"explain", as_c_function(explain), kFast,
     R"(explain(x, /, to, *, device=None, dtype=None, order='K', copy='named', on_write=None, assume_writable=False)
--

Return a Plan: what a conversion would do and why, without doing it.

`to` is `"torch"`, `"numpy"` or `"dlpack"`; the other arguments are those of to_torch(). Refusals are plans
too. Raises ExchangeError for wrong values, and TypeError for wrong kinds, such as an object without elements.

>>> plan = dlbridge.explain(np.arange(3.0)[::-1], "torch")
>>> plan.verdict, plan.reasons, plan.bytes
('refuse', ['negative_stride'], 24)

.. versionadded:: 0.1.0)"},
    {"shares_memory", as_c_function(shares_memory), METH_FASTCALL,
     R"(shares_memory(a, b, /)
--

Return True if two objects of any frameworks have a byte of an element in common.

Gaps between elements do not count. Raises ExchangeError for memory whose layout is unknown.

>>> a = np.arange(6.0)
>>> dlbridge.shares_memory(a[::2], dlbridge.to_torch(a)), dlbridge.shares_memory(a[::2], a[1::2])
(True, False)

.. versionadded:: 0.1.0)"},
    {"set_num_threads", set_threads, METH_O,
     R"(set_num_threads(n, /)
--

Set how many threads one large copy in host memory uses, the calling one included.

0 is the default. No more than the CPUs that the process may use are taken. Raises ExchangeError for a
negative `n` and TypeError for one that is no integer.

>>> dlbridge.set_num_threads(1)
>>> dlbridge.get_num_threads()
1
>>> dlbridge.set_num_threads(0)

.. versionadded:: 0.1.0)"},
    {"get_num_threads", get_threads, METH_NOARGS,
     R"(get_num_threads()
--

Return how many threads one large copy in host memory uses.

This is what set_num_threads() was given, else torch's or OpenMP's setting, OMP_NUM_THREADS, or the
CPUs that the process may use.

>>> dlbridge.get_num_threads() >= 1
True

.. versionadded:: 0.1.0)"},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

// The function that NB_MODULE defines; PyInit__core below calls it.
#define PyInit__core dlbridge_init_core

NB_MODULE(_core, module) {
  module.doc() = "The entry points of dlbridge.";
  // Daemon threads and modules that outlive the interpreter's teardown may hold handles.
  nb::set_leak_warnings(false);
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const Error& error) {
      set_exception(error);
    }
  });
  module.def(
      "_register_adapter", [](nb::handle capsule) { register_adapter(capsule.ptr()); },
      nb::arg("capsule"), "Register the adapter of a module's capsule.");
  module.def(
      "_register_device_module", [](nb::handle capsule) { register_device_module(capsule.ptr()); },
      nb::arg("capsule"), "Register the device module of a capsule.");
  module.def("_expect_adapter", expect_adapter, nb::arg("name"), nb::arg("module"), nb::arg("type"),
             "Announce an adapter that dlbridge._adapters.load(name) registers when it is needed.");
  module.def("_add_immutable_module", add_immutable_module, nb::arg("name"),
             "Announce a module whose arrays are never writable.");
  module.def("_dtypes", dtypes_of, nb::arg("target"),
             nb::sig("def _dtypes(target: str) -> list[tuple[str, int, int, int]]"),
             "Name, code, bits and lanes of each type that the target holds.");
  module.def("_device_named", device_named, nb::arg("device").none());
  nb::class_<Explanation>(module, "Plan",
                          R"(What a conversion will do: the result of explain().

A notebook shows it as a table and a drawing.

>>> plan = dlbridge.explain(np.zeros(3), "torch", dtype="float32")
>>> plan.verdict, plan.bytes, plan.path
('cast', 12, ['cast to float32'])

.. versionadded:: 0.1.0)")
      .def_ro("verdict", &Explanation::verdict, "`share`, `copy`, `cast`, `stage` or `refuse`.")
      .def_ro("reasons", &Explanation::reasons, "Codes of the reasons against sharing.")
      .def_ro("bytes", &Explanation::bytes,
              "Bytes written into new memory; 0 when shared. When refused: what the remedy would "
              "copy, 0 where that is unknown or no copy.")
      .def_ro("path", &Explanation::path, "The steps, in order; empty when refused.")
      .def_ro("message", &Explanation::message, "One sentence; when refused, the error's.")
      .def("__repr__", repr)
      .def(
          "_repr_html_",
          [](const nb::object& self) {
            return nb::module_::import_("dlbridge._html").attr("plan")(self);
          },
          nb::sig("def _repr_html_(self) -> str"), "Return the table and drawing of notebooks.");
  bind_tensor(module.ptr());
  bind_extension_api(module.ptr());
  bind_pickling(module);
  bind_futures(module);
  bind_pinned(module);
  nb::module_::import_("atexit").attr("register")(
      nb::cpp_function(end_foreign_releases, nb::call_guard<nb::gil_scoped_release>()));
  if (PyModule_AddFunctions(module.ptr(), g_functions) < 0) throw nb::python_error();
}

#undef PyInit__core

// nanobind keeps its state in one variable, which an import in another interpreter would replace.
PyMODINIT_FUNC PyInit__core() {
  if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
    PyErr_SetString(PyExc_ImportError,
                    "dlbridge cannot be used in a subinterpreter: import it in the main one");
    return nullptr;
  }
  return dlbridge_init_core();
}

}  // namespace dlbridge::python
