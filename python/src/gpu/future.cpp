#include "gpu/future.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>

#include "bridge/registry.h"
#include "convert/arguments.h"
#include "dlbridge/layout.h"
#include "gpu/stage.h"
#include "gpu/streams.h"
#include "support/errors.h"

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
  int descriptor() const { return staging_.descriptor(); }

  /// Whether it is done. Throws Error.
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
      if (!result_) result_ = std::move(made);  // another thread may have been faster
    }
    return result_.get();
  }

 private:
  PyObject* one(size_t index) const {
    Loan loan = staging_.result(index);
    PyObject* object = nullptr;
    check(target_->wrap(&loan, &object));
    return object;
  }

  PyObject* list() const {
    Reference all(PyList_New(static_cast<Py_ssize_t>(staging_.size())));
    if (!all) throw_pending();
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

// Runs `body`; what it throws becomes a Python exception.
template <typename Body>
auto raising(Body&& body) {
  try {
    return body();
  } catch (const Error& error) {
    raise(error);
    throw nb::python_error();
  }
}

nb::object result(Future& self, const nb::object& timeout) {
  return raising([&] {
    if (!self.wait(timeout)) {
      PyErr_SetString(PyExc_TimeoutError,
                      "the staging is not done yet: it goes on; ask again, or wait longer");
      throw nb::python_error();
    }
    return nb::borrow(self.result());
  });
}

void synchronize(Future& self, const nb::object& timeout) { result(self, timeout); }

nb::object await(const nb::object& self) {
  return nb::module_::import_("dlbridge._futures").attr("awaited")(self);
}

const Adapter* parse_optional_target(const nb::object& to) {
  return to.is_none() ? nullptr
                      : &parse_target(to.ptr(), "None, \"numpy\", \"torch\" or \"dlpack\"");
}

nb::object stage(const nb::object& x, const nb::object& device, const nb::object& stream,
                 const nb::object& out, const nb::object& to, bool snapshot, bool borrow) {
  return raising([&] {
    StagingRequest request;
    request.device = parse_device(device.ptr());
    request.stream = parse_stream(stream.ptr());
    request.target = parse_optional_target(to);
    if (!out.is_none()) {
      if (!to.is_none())
        throw Error(ErrorCode::invalid_argument, "to",
                    "out was given, which is the result: leave to out");
      request.out = out.ptr();
    }
    request.options.snapshot = snapshot;
    request.options.borrow = borrow;
    return nb::cast(Future(start_staging(x.ptr(), request), false));
  });
}

nb::list stage_batch(const nb::object& xs, const nb::object& stream, bool snapshot) {
  return raising([&] {
    StagingOptions options;
    options.snapshot = snapshot;
    const Adapter* numpy = adapter_named("numpy");
    nb::list groups;
    for (StartedGroup& group : start_stagings(xs.ptr(), parse_stream(stream.ptr()), options)) {
      StartedStaging started;
      started.staging = std::move(group.staging);
      started.target = numpy;
      groups.append(
          nb::make_tuple(nb::cast(Future(std::move(started), true)), nb::cast(group.indices)));
    }
    return groups;
  });
}

// The shape of pinned_empty: an integer or a sequence of them.
std::vector<int64_t> parse_shape(const nb::object& shape) {
  std::vector<int64_t> extents;
  const auto add = [&](nb::handle extent) {
    const Reference number(PyNumber_Index(extent.ptr()));
    const int64_t value = number ? PyLong_AsLongLong(number.get()) : -1;
    if (PyErr_Occurred()) throw nb::python_error();
    if (value < 0) {
      throw Error(ErrorCode::negative_extent, "shape",
                  "shape has an extent of " + std::to_string(value) + "; expected 0 or more");
    }
    extents.push_back(value);
  };
  if (PyIndex_Check(shape.ptr()))
    add(shape);
  else
    for (nb::handle extent : shape) add(extent);
  return extents;
}

nb::object pinned_empty(const nb::object& shape, const nb::object& dtype) {
  return raising([&] {
    const Adapter* numpy = adapter_named("numpy");
    if (numpy == nullptr) throw_pending();
    const DeviceModule& module = require_device_module();
    const std::vector<int64_t> extents = parse_shape(shape);
    Loan like;
    like.set_rank(static_cast<int32_t>(extents.size()));
    std::copy(extents.begin(), extents.end(), like.shape());
    check(numpy->parse_dtype(dtype.ptr(), &like.view().dtype));
    like.view().subbyte_padded = true;  // as NumPy's packages have them
    const auto count = element_count(like.view().extents());
    int64_t bytes = 0;
    if (!count || __builtin_mul_overflow(*count, like.view().itemsize(), &bytes))
      throw Error(ErrorCode::extent_overflow, "shape",
                  "the array would have more than 2**63 bytes");
    compact_strides(like.view().extents(), like.strides());
    Loan memory;
    check(module.pinned_empty(&like.view(), &memory));
    PyObject* array = nullptr;
    check(numpy->wrap(&memory, &array));
    return nb::steal(array);
  });
}

nb::tuple pool_stats() {
  return raising([] {
    PoolStatistics s{};
    const DeviceModule& module = require_device_module();
    without_gil([&] { return module.pool_statistics(&s); });
    return nb::make_tuple(s.registered, s.limit, s.free, s.owned, s.in_flight, s.quarantined,
                          s.leaked, s.hits, s.misses, s.grows, s.refused);
  });
}

void set_pool_limit(int64_t bytes) {
  raising([&] {
    if (bytes < 0) {
      throw Error(ErrorCode::invalid_argument, "bytes",
                  "bytes is " + std::to_string(bytes) + "; expected 0 or more");
    }
    const DeviceModule& module = require_device_module();
    without_gil([&] { return module.set_pool_limit(static_cast<size_t>(bytes)); });
  });
}

bool record_stream(const nb::object& array, const nb::object& stream, const nb::object& device) {
  return raising([&] {
    const auto place = parse_device(device.ptr());
    const auto handle = parse_stream(stream.ptr());
    if (!place || !handle) {
      throw Error(ErrorCode::invalid_argument, place ? "stream" : "device",
                  "expected a stream and its device, such as record_stream(a, stream, \"cuda:0\")");
    }
    Source source;
    if (!source.open(array.ptr())) throw nb::python_error();
    bool held = false;
    check(require_device_module().record_pinned(source.view().data, place->device_id, *handle,
                                                &held));
    return held;
  });
}

nb::object describe_device_module() {
  const DeviceModule* module = device_module();
  return raising([&]() -> nb::object {
    if (module == nullptr) return nb::none();
    std::string text;
    check(module->describe(&text));
    return nb::str(text.c_str());
  });
}

constexpr const char* kFutureDoc =
    R"(A staging under way: what stage() returns.

The copy does not belong to it: dropping a Future neither waits nor cancels, and what the copy
needs is held until it is done. May be used by several threads. `await` waits for it in asyncio.)";

}  // namespace

void bind_staging(nb::module_& module) {
  nb::class_<Future>(module, "Future", kFutureDoc)
      .def("done", &Future::done, "Whether the copy has ended, well or badly. Never waits.")
      .def("result", result, nb::arg("timeout").none() = nb::none(),
           nb::sig("def result(self, timeout: float | None = None) -> typing.Any"),
           "Waits at most `timeout` seconds, then returns the result: the same object on every "
           "call. Raises TimeoutError, or the ExchangeError that ended the copy.")
      .def("synchronize", synchronize, nb::arg("timeout").none() = nb::none(),
           nb::sig("def synchronize(self, timeout: float | None = None) -> None"),
           "Waits as result() does and returns nothing.")
      .def(
          "fileno", [](const Future& self) { return raising([&] { return self.descriptor(); }); },
          "A descriptor that becomes readable when it is done. The Future's own: neither read nor "
          "close it.")
      .def("__await__", await,
           nb::sig("def __await__(self) -> Generator[typing.Any, typing.Any, typing.Any]"),
           "Waits in asyncio's event loop; cancelling the task does not cancel the copy.")
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
             "Starts copying x to another device and returns at once: a Future.");
  module.def("_stage_batch", stage_batch, nb::arg("xs"), nb::arg("stream").none(),
             nb::arg("snapshot"),
             nb::sig("def _stage_batch(xs: typing.Any, stream: typing.Any, snapshot: bool) -> "
                     "list[tuple[Future, list[int]]]"));
  module.def("pinned_empty", pinned_empty, nb::arg("shape"), nb::arg("dtype") = "float64",
             nb::sig("def pinned_empty(shape: typing.Any, dtype: typing.Any = 'float64') -> "
                     "NDArray[typing.Any]"),
             "An uninitialised array in page-locked memory of dlbridge's pool.");
  module.def("_pool_stats", pool_stats, nb::sig("def _pool_stats() -> tuple[int, ...]"));
  module.def("set_pool_limit", set_pool_limit, nb::arg("bytes"),
             "At most so many bytes stay page-locked; free memory beyond is given back at once.");
  module.def("record_stream", record_stream, nb::arg("array"), nb::arg("stream"),
             nb::arg("device") = "cuda:0",
             nb::sig("def record_stream(array: typing.Any, stream: typing.Any, device: typing.Any "
                     "= 'cuda:0') -> bool"),
             "Says that work enqueued on a stream so far uses a pinned array of dlbridge's: its "
             "memory is not used again before that work has ended. Whether it is such an array.");
  module.def("_describe_device_module", describe_device_module,
             nb::sig("def _describe_device_module() -> str | None"));
}

}  // namespace dlbridge::python
