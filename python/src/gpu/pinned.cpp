// SPDX-License-Identifier: Apache-2.0
// Pinned memory in Python: arrays of the pool, its state, its limit.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>
#include <vector>

#include "bridge/registry.h"
#include "convert/arguments.h"
#include "dlbridge/layout.h"
#include "gpu/bindings.h"
#include "gpu/launch.h"
#include "gpu/streams.h"

namespace nb = nanobind;

namespace dlbridge::python {
namespace {

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
  const Adapter& numpy = adapter_named("numpy");
  const DeviceModule& module = require_device_module();
  const std::vector<int64_t> extents = parse_shape(shape);
  Loan like;
  like.set_rank(static_cast<int32_t>(extents.size()));
  std::copy(extents.begin(), extents.end(), like.shape());
  check(numpy.parse_dtype(dtype.ptr(), &like.view().dtype));
  like.view().subbyte_padded = true;  // as NumPy's packages have them
  const auto count = element_count(like.view().extents());
  int64_t bytes = 0;
  if (!count || __builtin_mul_overflow(*count, like.view().itemsize(), &bytes))
    throw Error(ErrorCode::extent_overflow, "shape", "the array would have more than 2**63 bytes");
  compact_strides(like.view().extents(), like.strides());
  Loan memory;
  check(module.pinned_empty(&like.view(), &memory));
  return nb::steal(wrapped(numpy, std::move(memory)).release());
}

nb::tuple pool_stats() {
  PoolStatistics s{};
  check(require_device_module().pool_statistics(&s));
  return nb::make_tuple(s.registered, s.limit, s.free, s.owned, s.in_flight, s.quarantined,
                        s.leaked, s.hits, s.misses, s.grows, s.refused, s.register_failed);
}

// An argument that counts bytes. `example` ends the message.
size_t parse_bytes(const nb::object& bytes, const char* name, const char* example) {
  const Reference number(PyNumber_Index(bytes.ptr()));
  if (!number) {
    clear_exception();
    throw_type_error(std::string(name) + " is " + repr_of(bytes.ptr()) +
                     "; expected an integer, such as " + example);
  }
  const Py_ssize_t count = PyLong_AsSsize_t(number.get());
  if (count == -1 && PyErr_Occurred()) PyErr_Clear();
  if (count < 0) {
    throw Error(ErrorCode::invalid_argument, name,
                std::string(name) + " is " + repr_of(bytes.ptr()) + "; expected 0 to 2**63 - 1");
  }
  return static_cast<size_t>(count);
}

void set_pool_limit(const nb::object& bytes) {
  const size_t limit = parse_bytes(bytes, "bytes", "1 << 30 for 1 GiB");
  check(require_device_module().set_pool_limit(limit));
}

void reserve_pinned(const nb::object& bytes) {
  const size_t count = parse_bytes(bytes, "bytes", "1 << 30 for 1 GiB");
  check(require_device_module().reserve_pinned(count));
}

size_t trim_pinned(const nb::object& keep_bytes) {
  const size_t keep = parse_bytes(keep_bytes, "keep_bytes", "0 for all that is free");
  size_t freed = 0;
  check(require_device_module().trim_pinned(keep, &freed));
  return freed;
}

bool record_stream(const nb::object& array, const nb::object& stream, const nb::object& device) {
  const auto place = parse_device(device.ptr());
  const auto handle = parse_stream(stream.ptr());
  if (!place || !handle) {
    throw Error(ErrorCode::invalid_argument, place ? "stream" : "device",
                "expected a stream and its device, such as record_stream(a, stream, \"cuda:0\")");
  }
  Source source;
  source.open(array.ptr());
  bool held = false;
  check(
      require_device_module().record_pinned(source.view().data, place->device_id, *handle, &held));
  return held;
}

nb::object describe_device_module() {
  const DeviceModule* module = device_module();
  if (module == nullptr) return nb::none();
  std::string text;
  check(module->describe(&text));
  return nb::str(text.c_str());
}

}  // namespace

void bind_pinned(nb::module_& module) {
  module.def("pinned_empty", pinned_empty, nb::arg("shape"), nb::arg("dtype") = "float64",
             nb::sig("def pinned_empty(shape: typing.Any, dtype: typing.Any = 'float64') -> "
                     "NDArray[typing.Any]"),
             "Return an uninitialised array in page-locked memory of dlbridge's pool.");
  module.def("_pool_stats", pool_stats, nb::sig("def _pool_stats() -> tuple[int, ...]"));
  module.def("set_pool_limit", set_pool_limit, nb::arg("bytes"),
             nb::sig("def set_pool_limit(bytes: int) -> None"),
             "Set how many bytes stay page-locked at most. Free memory above the limit is released "
             "at once.");
  module.def("_reserve_pinned", reserve_pinned, nb::arg("bytes"),
             nb::sig("def _reserve_pinned(bytes: int) -> None"));
  module.def("trim_pinned", trim_pinned, nb::arg("keep_bytes") = 0,
             nb::sig("def trim_pinned(keep_bytes: int = 0) -> int"),
             "Release free page-locked memory, reserved memory too, until at most keep_bytes stay. "
             "Return the bytes that were released.");
  module.def("record_stream", record_stream, nb::arg("array"), nb::arg("stream"),
             nb::arg("device") = "cuda:0",
             nb::sig("def record_stream(array: typing.Any, stream: typing.Any, device: typing.Any "
                     "= 'cuda:0') -> bool"),
             "Keep the memory of a pinned array from being reused before the work that the stream "
             "holds now has ended. Return True if it is an array of dlbridge's pool.");
  module.def("_describe_device_module", describe_device_module,
             nb::sig("def _describe_device_module() -> str | None"));
}

}  // namespace dlbridge::python
