// SPDX-License-Identifier: Apache-2.0
#include "gpu/bindings.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>

#include "bridge/registry.h"
#include "convert/arguments.h"
#include "gpu/launch.h"
#include "gpu/stage.h"
#include "gpu/streams.h"

namespace nb = nanobind;

namespace dlbridge::python {
namespace {

// The content of the Python class. Guarded by the GIL.
class Future {
 public:
  Future(StartedStaging&& started, bool many) noexcept
      : staging_(std::move(started.staging)),
        result_(std::move(started.object)),
        target_(started.target),
        given_(static_cast<bool>(result_)),
        many_(many) {}

  bool done() const noexcept { return staging_.done(); }
  int fd() const { return staging_.fd(); }

  /// Returns true if it is done. Throws Error.
  bool wait(const nb::object& timeout) const {
    const double seconds = timeout.is_none() ? -1 : nb::cast<double>(timeout);
    if (!timeout.is_none() && !(seconds >= 0)) {
      throw Error(ErrorCode::invalid_argument, "timeout",
                  "timeout is " + repr_of(timeout.ptr()) + "; expected None or seconds from 0 on");
    }
    return staging_.wait(seconds);
  }

  /// A borrowed reference: the same object on every call. Requires: done. Throws Error.
  PyObject* result() {
    if (given_) {
      static_cast<void>(staging_.result(0));  // says what went wrong
    } else if (!result_) {
      Reference made(many_ ? list() : one(0));
      if (!result_) result_ = std::move(made);  // another thread may have made it
    }
    return result_.get();
  }

 private:
  PyObject* one(size_t index) const { return wrapped(*target_, staging_.result(index)).release(); }

  PyObject* list() const {
    Reference all = checked(PyList_New(static_cast<Py_ssize_t>(staging_.size())));
    for (size_t i = 0; i < staging_.size(); ++i)
      PyList_SET_ITEM(all.get(), static_cast<Py_ssize_t>(i), one(i));
    return all.release();
  }

  Staging staging_;
  Reference result_;
  const Adapter* target_;
  bool given_;  // result_ exists from the beginning
  bool many_;
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

nb::object stage(const nb::object& x, const nb::object& device, const nb::object& stream,
                 const nb::object& out, const nb::object& to, bool snapshot, bool borrow) {
  StagingRequest request;
  request.device = parse_device(device.ptr());
  request.stream = parse_stream(stream.ptr());
  if (!to.is_none()) request.target = &parse_target(to.ptr());
  if (!out.is_none()) {
    if (!to.is_none())
      throw Error(ErrorCode::invalid_argument, "to",
                  "out was given, which is the result: leave to out");
    request.out = out.ptr();
  }
  request.options.snapshot = snapshot;
  request.options.borrow = borrow;
  return nb::cast(Future(start_staging(x.ptr(), request), false));
}

nb::list stage_batch(const nb::object& xs, const nb::object& stream, bool snapshot) {
  StagingOptions options;
  options.snapshot = snapshot;
  const Adapter& numpy = adapter_named("numpy");
  nb::list groups;
  for (StartedGroup& group : start_stagings(xs.ptr(), parse_stream(stream.ptr()), options)) {
    StartedStaging started;
    started.staging = std::move(group.staging);
    started.target = &numpy;
    groups.append(
        nb::make_tuple(nb::cast(Future(std::move(started), true)), nb::cast(group.indices)));
  }
  return groups;
}

constexpr const char* kFutureDoc =
    R"(An asynchronous copy between host and device: what stage() returns.

Dropping a Future neither waits nor cancels: the copy holds what it needs until it is done. Several
threads may use one Future. `await` waits for it in asyncio.)";

}  // namespace

void bind_futures(nb::module_& module) {
  nb::class_<Future>(module, "Future", kFutureDoc)
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
          "Return a file descriptor that becomes readable when the copy is done. The Future owns "
          "it: do not read or close it.")
      .def("__await__", await,
           nb::sig("def __await__(self) -> Generator[typing.Any, typing.Any, typing.Any]"),
           "Wait in asyncio's event loop. Cancelling the task does not cancel the copy.")
      .def("__repr__", [](const Future& self) {
        return std::string("dlbridge.Future(") + (self.done() ? "done" : "under way") + ")";
      });
  module.def("stage", stage, nb::arg("x"), nb::kw_only(), nb::arg("device").none() = nb::none(),
             nb::arg("stream").none() = nb::none(), nb::arg("out").none() = nb::none(),
             nb::arg("to").none() = nb::none(), nb::arg("snapshot") = true,
             nb::arg("borrow") = false,
             nb::sig("def stage(x: typing.Any, /, *, device: typing.Any = None, stream: "
                     "typing.Any = None, out: typing.Any = None, to: str | None = None, snapshot: "
                     "bool = True, borrow: bool = False) -> Future"),
             "Start a copy of x to another device and return a Future at once.");
  module.def("_stage_batch", stage_batch, nb::arg("xs"), nb::arg("stream").none(),
             nb::arg("snapshot"),
             nb::sig("def _stage_batch(xs: typing.Any, stream: typing.Any, snapshot: bool) -> "
                     "list[tuple[Future, list[int]]]"));
}

}  // namespace dlbridge::python
