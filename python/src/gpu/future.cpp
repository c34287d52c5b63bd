// SPDX-License-Identifier: Apache-2.0
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "convert/arguments.h"
#include "gpu/bindings.h"
#include "gpu/stage.h"
#include "gpu/streams.h"

namespace nb = nanobind;

namespace dlbridge::python {
namespace {

// The content of the Python class. Guarded by the GIL.
class Future {
 public:
  /// `bar` shows how many leaves have arrived; null: nothing does.
  Future(StartedCopies&& copies, Reference bar) noexcept
      : copies_(std::move(copies)), bar_(std::move(bar)) {}

  bool done() const noexcept { return std::ranges::all_of(copies_.operations, &Staging::done); }

  /// The file descriptor of the first operation that is not done, or of the last one.
  int fd() const {
    const auto& all = copies_.operations;
    if (all.empty())
      throw Error(ErrorCode::invalid_argument, "descriptor", "no tensor is copied: call result()");
    const auto open = std::ranges::find_if_not(all, &Staging::done);
    return (open != all.end() ? *open : all.back()).fd();
  }

  /// Returns true if it is done. Throws Error.
  bool wait(const nb::object& timeout) {
    using Clock = std::chrono::steady_clock;
    const double seconds = timeout.is_none() ? -1 : PyFloat_AsDouble(timeout.ptr());
    const bool number = !PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_OverflowError);
    clear_exception();
    if (!timeout.is_none() && !(seconds >= 0))
      refuse_argument("timeout", timeout.ptr(), number,
                      "None or a number of seconds from 0 on, such as 1.5");
    const auto begin = Clock::now();
    for (size_t i = 0; i < copies_.operations.size(); ++i) {
      const double passed = std::chrono::duration<double>(Clock::now() - begin).count();
      const double left = seconds < 0 ? -1 : std::max(0.0, seconds - passed);
      if (!copies_.operations[i].wait(left)) return false;
      show(i);
    }
    return true;
  }

  /// A borrowed reference: the same object on every call. Requires: done. Throws Error.
  PyObject* result() {
    if (!result_) {
      Reference made = result_of(copies_);
      if (!result_) result_ = std::move(made);  // another thread may have made it
    }
    return result_.get();
  }

  /// For the garbage collector: the objects of others may refer to this one.
  int traverse(visitproc visit, void* arg) const {
    Py_VISIT(bar_.get());
    Py_VISIT(result_.get());
    Py_VISIT(copies_.structure.get());
    for (const StagedLeaf& leaf : copies_.leaves) Py_VISIT(leaf.object.get());
    return 0;
  }
  void clear() {
    const StartedCopies copies = std::move(copies_);
    const Reference bar = std::move(bar_), result = std::move(result_);
  }

 private:
  void show(size_t operation) {
    if (!bar_ || operation != shown_) return;
    ++shown_;
    const auto arrived = std::ranges::count(copies_.leaves, operation, &StagedLeaf::operation);
    checked(PyObject_CallMethod(bar_.get(), "update", "n", static_cast<Py_ssize_t>(arrived)));
    if (shown_ == copies_.operations.size())
      checked(PyObject_CallMethod(bar_.get(), "close", nullptr));
  }

  StartedCopies copies_;
  Reference bar_;
  size_t shown_ = 0;  // operations whose leaves the bar has counted
  Reference result_;
};

nb::object result(Future& self, const nb::object& timeout) {
  if (!self.wait(timeout)) {
    PyErr_SetString(PyExc_TimeoutError,
                    "the copy is not done yet and goes on: call again, or wait longer");
    throw nb::python_error();
  }
  return nb::borrow(self.result());
}

void synchronize(Future& self, const nb::object& timeout) { result(self, timeout); }

nb::object await(const nb::object& self) {
  return nb::module_::import_("dlbridge._futures").attr("awaited")(self);
}

PyObject* stage(PyObject*, PyObject* args, PyObject* keywords) {
  static constexpr const char* kNames[] = {"",   "device",   "stream", "out",
                                           "to", "snapshot", "borrow", nullptr};
  return translated([&] {
    PyObject *x = nullptr, *device = Py_None, *stream = Py_None, *out = Py_None, *to = Py_None;
    PyObject *snapshot = Py_True, *borrow = Py_False;
    read(args, keywords, "O|$OOOOOO:stage", kNames, &x, &device, &stream, &out, &to, &snapshot,
         &borrow);
    StagingRequest request;
    request.device = parse_device(device);
    request.stream = parse_stream(stream);
    if (to != Py_None) request.target = &parse_target(to);
    if (out != Py_None) {
      if (to != Py_None)
        throw Error(ErrorCode::invalid_argument, "to",
                    "out was given, which is the result: leave to out");
      request.out = out;
    }
    request.options.snapshot = parse_bool("snapshot", snapshot);
    request.options.borrow = parse_bool("borrow", borrow);
    return nb::cast(Future(start_staging(x, request), {})).release().ptr();
  });
}

PyObject* stage_many(PyObject*, PyObject* args, PyObject* keywords) {
  static constexpr const char* kNames[] = {"", "device", "stream", "snapshot", "progress", nullptr};
  return translated([&] {
    PyObject *xs = nullptr, *device = Py_None, *stream = Py_None;
    PyObject *snapshot = Py_True, *progress = Py_False;
    read(args, keywords, "O|$OOOO:stage_many", kNames, &xs, &device, &stream, &snapshot, &progress);
    StagingRequest request;
    request.device = parse_device(device);
    if (!request.device) request.device = Device(DeviceType::cpu);
    request.stream = parse_stream(stream);
    request.options.snapshot = parse_bool("snapshot", snapshot);
    Reference tqdm;
    if (parse_bool("progress", progress))
      tqdm = call_python("dlbridge._futures", "progress_bar", "()");
    StartedCopies copies = start_stagings(xs, request, static_cast<bool>(tqdm));
    Reference bar;
    if (tqdm)
      bar = checked(
          PyObject_CallFunction(tqdm.get(), "n", static_cast<Py_ssize_t>(copies.leaves.size())));
    return nb::cast(Future(std::move(copies), std::move(bar))).release().ptr();
  });
}

PyMethodDef g_functions[] = {
    {"stage", as_c_function(stage), METH_VARARGS | METH_KEYWORDS,
     R"(stage(x, /, *, device=None, stream=None, out=None, to=None, snapshot=True, borrow=False)
--

Start a copy of `x` between host and GPU, and return a Future of the result at once.

The result has the shape and dtype of `x`: `out`, if it is given, or a new object on `device` of the
framework `to`, by default NumPy's on the host and torch's, else dlbridge's, on a GPU. `stream` is the
stream that `x` is used on: of torch, CuPy or Numba, or a number as in DLPack. Work that follows on it
waits for the copy; with `snapshot=False` it does not, and must not write to `x` before the Future is
done. `borrow=True` reads pageable memory after the call has returned.

Raises ExchangeError (no_driver, device_not_named, shape_mismatch ...) before anything is copied.

>>> future = dlbridge.stage(np.arange(3.0), device="cuda:0", to="dlpack")
>>> dlbridge.stage(future.result(), device="cpu").result()
array([0., 1., 2.])

.. versionadded:: 0.1.0)"},
    {"stage_many", as_c_function(stage_many), METH_VARARGS | METH_KEYWORDS,
     R"(stage_many(xs, /, *, device='cpu', stream=None, snapshot=True, progress=False)
--

Start a copy of every tensor in `xs` and return one Future, whose result has the structure of `xs`.

`xs` is a dict, list, tuple or dataclass, nested at will, or another iterable, which becomes a
list. Leaves that are no tensors are passed through. To the host the tensors of one device and
stream are copied as one operation into one pinned block; to a device those of up to 64 KiB
go through one block. The same elements of the same memory are copied once. `progress=True`
draws a tqdm bar during the wait, and copies in pieces of 64 MiB.

`stream` and `snapshot` are those of stage(). Raises ExchangeError before anything is copied; the
message names the leaf.

>>> x = dlbridge.from_dlpack(np.ones(2), device="cuda:0")
>>> dlbridge.stage_many({"x": [x, x], "step": 3}).result()
{'x': [array([1., 1.]), array([1., 1.])], 'step': 3}

.. versionadded:: 0.1.0)"},
    {nullptr, nullptr, 0, nullptr},
};

int traverse_future(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  return nb::inst_ready(self) ? nb::inst_ptr<Future>(self)->traverse(visit, arg) : 0;
}

int clear_future(PyObject* self) {
  nb::inst_ptr<Future>(self)->clear();
  return 0;
}

PyType_Slot g_slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(traverse_future)},
                         {Py_tp_clear, reinterpret_cast<void*>(clear_future)},
                         {0, nullptr}};

constexpr const char* kFutureDoc =
    R"(An asynchronous copy between host and device: what stage() and stage_many() return.

Dropping a Future neither waits nor cancels: the copy holds what it needs until it is done. Several
threads may use one Future. `await` waits for it in asyncio. Timeouts are in seconds.

>>> future = dlbridge.stage(np.arange(3.0), device="cuda:0", to="dlpack")
>>> future.result(timeout=60).device
'cuda:0'
>>> future.done()
True

.. versionadded:: 0.1.0)";

}  // namespace

void bind_futures(nb::module_& module) {
  nb::class_<Future>(module, "Future", kFutureDoc, nb::type_slots(g_slots))
      .def("done", &Future::done,
           "Return True if the copy has ended, with a result or an error. Never waits.")
      .def("result", result, nb::arg("timeout").none() = nb::none(),
           nb::sig("def result(self, timeout: float | None = None) -> typing.Any"),
           "Wait at most `timeout` seconds and return the result, the same object on every call. "
           "Raises TimeoutError, or the ExchangeError that ended the copy.")
      .def("synchronize", synchronize, nb::arg("timeout").none() = nb::none(),
           nb::sig("def synchronize(self, timeout: float | None = None) -> None"),
           "Wait as result() does and return None.")
      .def(
          "fileno", [](const Future& self) { return self.fd(); },
          "Return a file descriptor that becomes readable when the copy is done. Copies of several "
          "devices or streams have one each: call done() then, and fileno() again. The Future owns "
          "it: do not read or close it.")
      .def("__await__", await,
           nb::sig("def __await__(self) -> Generator[typing.Any, typing.Any, typing.Any]"),
           "Wait in asyncio's event loop. Cancelling the task does not cancel the copy.")
      .def("__repr__", [](const Future& self) {
        return std::string("dlbridge.Future(") + (self.done() ? "done" : "under way") + ")";
      });
  if (PyModule_AddFunctions(module.ptr(), g_functions) < 0) throw nb::python_error();
}

}  // namespace dlbridge::python
