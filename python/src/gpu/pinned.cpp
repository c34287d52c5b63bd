// SPDX-License-Identifier: Apache-2.0
// Pinned memory in Python: arrays of the pool, its state, its limit.
#include <nanobind/nanobind.h>

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

// Throws the error, if there is one, with Python's name of the function that it names.
void check_pool(Error* error) {
  try {
    check(error);
  } catch (const Error& found) {
    std::string text = found.what();
    const std::string named = "set_pinned_limit";
    if (const size_t at = text.find(named); at != std::string::npos)
      text.replace(at, named.size(), "dlbridge.set_pool_limit(bytes)");
    throw Error(found.code(), found.field(), text);
  }
}

PyObject* pinned_empty(PyObject*, PyObject* args, PyObject* keywords) {
  static constexpr const char* kNames[] = {"shape", "dtype", nullptr};
  return translated([&] {
    PyObject *shape = nullptr, *dtype = nullptr;
    read(args, keywords, "O|O:pinned_empty", kNames, &shape, &dtype);
    const Adapter& numpy = adapter_named("numpy");
    const std::vector<int64_t> extents = parse_shape(shape);
    for (const int64_t extent : extents) {
      if (extent < 0)
        throw Error(ErrorCode::negative_extent, "shape",
                    "shape has an extent of " + std::to_string(extent) + "; expected 0 or more");
    }
    Loan like;
    like.set_rank(static_cast<int32_t>(extents.size()));
    std::copy(extents.begin(), extents.end(), like.shape());
    like.view().dtype = DType(TypeCode::float_, 64);
    if (dtype != nullptr) check(numpy.parse_dtype(dtype, &like.view().dtype));
    like.view().subbyte_padded = true;  // as NumPy's packages have them
    const auto count = element_count(like.view().extents());
    int64_t bytes = 0;
    if (!count || __builtin_mul_overflow(*count, like.view().itemsize(), &bytes))
      throw Error(ErrorCode::extent_overflow, "shape",
                  "the array would have more than 2**63 bytes");
    compact_strides(like.view().extents(), like.strides());
    Loan memory;
    check_pool(require_device_module().pinned_empty(&like.view(), &memory));
    return wrapped(numpy, std::move(memory)).release();
  });
}

nb::tuple pool_stats() {
  PoolStatistics s{};
  check(require_device_module().pool_statistics(&s));
  return nb::make_tuple(s.registered, s.limit, s.free, s.owned, s.in_flight, s.quarantined,
                        s.leaked, s.hits, s.misses, s.grows, s.refused, s.register_failed);
}

// An argument that counts bytes. `example` ends the message.
size_t parse_bytes(PyObject* bytes, const char* name, const char* example) {
  const int64_t count = integer_of(bytes).value_or(-1);
  if (count < 0)
    refuse_argument(name, bytes, PyIndex_Check(bytes),
                    std::string("an integer from 0 to 2**63 - 1, such as ") + example);
  return static_cast<size_t>(count);
}

PyObject* set_pool_limit(PyObject*, PyObject* args, PyObject* keywords) {
  static constexpr const char* kNames[] = {"bytes", nullptr};
  return translated([&] {
    PyObject* bytes = nullptr;
    read(args, keywords, "O:set_pool_limit", kNames, &bytes);
    const size_t limit = parse_bytes(bytes, "bytes", "1 << 30 for 1 GiB");
    check(require_device_module().set_pool_limit(limit));
    return Py_NewRef(Py_None);
  });
}

// The argument of reserve_pinned(), checked before there is a GPU.
size_t byte_count(nb::handle bytes) {
  return parse_bytes(bytes.ptr(), "bytes", "1 << 30 for 1 GiB");
}

void reserve_pinned(size_t bytes) { check_pool(require_device_module().reserve_pinned(bytes)); }

PyObject* trim_pinned(PyObject*, PyObject* args, PyObject* keywords) {
  static constexpr const char* kNames[] = {"keep_bytes", nullptr};
  return translated([&] {
    PyObject* keep_bytes = nullptr;
    read(args, keywords, "|O:trim_pinned", kNames, &keep_bytes);
    const size_t keep =
        keep_bytes == nullptr ? 0 : parse_bytes(keep_bytes, "keep_bytes", "0 for all that is free");
    size_t freed = 0;
    check(require_device_module().trim_pinned(keep, &freed));
    return checked(PyLong_FromSize_t(freed)).release();
  });
}

PyObject* record_stream(PyObject*, PyObject* args, PyObject* keywords) {
  static constexpr const char* kNames[] = {"array", "stream", "device", nullptr};
  return translated([&] {
    PyObject *array = nullptr, *stream = nullptr, *device = nullptr;
    read(args, keywords, "OO|O:record_stream", kNames, &array, &stream, &device);
    const auto place =
        device == nullptr ? DLDevice(Device(DeviceType::cuda, 0)) : parse_device(device);
    const auto handle = parse_stream(stream);
    if (!place || !handle) {
      throw Error(ErrorCode::invalid_argument, place ? "stream" : "device",
                  "expected a stream and its device, such as record_stream(a, stream, \"cuda:0\")");
    }
    Source source;
    source.open(array);
    bool held = false;
    check(require_device_module().record_pinned(source.view().data, place->device_id, *handle,
                                                &held));
    return PyBool_FromLong(held);
  });
}

nb::object describe_device_module() {
  const DeviceModule* module = device_module();
  if (module == nullptr) return nb::none();
  std::string text;
  check(module->describe(&text));
  return nb::str(text.c_str());
}

constexpr int kKeywords = METH_VARARGS | METH_KEYWORDS;
PyMethodDef g_functions[] = {
    {"pinned_empty", as_c_function(pinned_empty), kKeywords,
     R"(pinned_empty(shape, dtype='float64')
--

Return an uninitialised array in page-locked memory of dlbridge's pool.

`shape` is an integer or several; strides are row-major. Beyond the limit of the pool the memory is
pageable. Raises ExchangeError without a GPU (no_driver, no_device ...), for a dtype that DLPack does
not have and for a negative extent.

>>> dlbridge.pinned_empty((2, 3), "float32").shape
(2, 3)

.. versionadded:: 0.1.0)"},
    {"set_pool_limit", as_c_function(set_pool_limit), kKeywords,
     R"(set_pool_limit(bytes)
--

Set how many bytes stay page-locked at most. Free memory above the limit is released at once.

Raises ExchangeError without a GPU and for a negative number, TypeError for no integer.

>>> dlbridge.set_pool_limit(1 << 30)
>>> dlbridge.pool_stats().limit
1073741824

.. versionadded:: 0.1.0)"},
    {"trim_pinned", as_c_function(trim_pinned), kKeywords,
     R"(trim_pinned(keep_bytes=0)
--

Release free page-locked memory, reserved memory too, until at most `keep_bytes` bytes stay.

Returns the bytes that were released. Raises ExchangeError without a GPU.

>>> dlbridge.reserve_pinned(1 << 20).result()
1048576
>>> dlbridge.trim_pinned() >= 1 << 20
True

.. versionadded:: 0.1.0)"},
    {"record_stream", as_c_function(record_stream), kKeywords,
     R"(record_stream(array, stream, device='cuda:0')
--

Keep the memory of a pinned array from being reused before the work that a stream holds now has ended.

`stream` is an object of torch, CuPy or Numba, or a number as in DLPack; `device` is its device. Returns
True if `array` lies in dlbridge's pool, else nothing is done. Raises ExchangeError without a GPU and
for a stream that is no stream.

>>> dlbridge.record_stream(dlbridge.pinned_empty(3), 1)
True

.. versionadded:: 0.1.0)"},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void bind_pinned(nb::module_& module) {
  module.def("_pool_stats", pool_stats, nb::sig("def _pool_stats() -> tuple[int, ...]"));
  module.def("_byte_count", byte_count);
  module.def("_reserve_pinned", reserve_pinned);
  module.def("_describe_device_module", describe_device_module,
             nb::sig("def _describe_device_module() -> str | None"));
  if (PyModule_AddFunctions(module.ptr(), g_functions) < 0) throw nb::python_error();
}

}  // namespace dlbridge::python
