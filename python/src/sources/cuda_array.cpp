// SPDX-License-Identifier: Apache-2.0
#include "sources/cuda_array.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "bridge/device_module.h"
#include "dlbridge/layout.h"
#include "dlbridge/python_object/hold.h"
#include "dlbridge/validate.h"
#include "support/errors.h"

namespace dlbridge::python {
namespace {

[[noreturn]] void refuse(const char* field, const std::string& found, const char* expected) {
  throw Error(ErrorCode::invalid_argument, field,
              std::string(kCudaArrayAttribute) + "[\"" + field + "\"] is " + found + "; expected " +
                  expected);
}

PyObject* entry(PyObject* interface, const char* name) noexcept {
  return PyDict_GetItemString(interface, name);  // borrowed
}

std::string found(PyObject* value) { return value == nullptr ? "missing" : repr_of(value); }

std::vector<int64_t> read_integers(PyObject* tuple, const char* field) {
  if (auto integers = integers_of(tuple)) return *std::move(integers);
  refuse(field, repr_of(tuple), "a tuple of integers of 64 bits");
}

// Strides in elements; those of interface are in bytes.
std::vector<int64_t> read_strides(PyObject* strides, size_t ndim, int64_t itemsize) {
  if (!PyTuple_Check(strides) || static_cast<size_t>(PyTuple_GET_SIZE(strides)) != ndim)
    refuse("strides", repr_of(strides), "None or one number of bytes for each dimension");
  std::vector<int64_t> numbers = read_integers(strides, "strides");
  for (int64_t& stride : numbers) {
    if (stride % itemsize != 0)
      refuse("strides", repr_of(strides), "multiples of the element's size");
    stride /= itemsize;
  }
  return numbers;
}

// NumPy's type strings: byte order, kind, bytes.
DLDataType parse_typestr(PyObject* value) {
  const std::string_view text = utf8_of(value).value_or("");
  if (text.size() < 3) refuse("typestr", found(value), "a type string such as \"<f4\"");
  const char* end = text.data() + text.size();
  int bytes = 0;
  const char* rest = std::from_chars(text.data() + 2, end, bytes).ptr;
  if (text[0] == '>' && bytes > 1)
    refuse("typestr", repr_of(value), "native byte order: little-endian");
  const auto* kind = std::ranges::find(kTypestrKinds, text[1], &std::pair<char, TypeCode>::first);
  if (kind == std::end(kTypestrKinds)) {
    throw Error(ErrorCode::unsupported_dtype, "typestr",
                "dtype is " + repr_of(value) +
                    ", which DLPack cannot say: export it with __dlpack__, or view it as unsigned "
                    "integers");
  }
  if (rest != end) refuse("typestr", repr_of(value), "a type string such as \"<f4\"");
  const DType dtype(kind->second, bytes <= 16 ? bytes * 8 : 0);
  if (!dtype.is_known()) {
    throw Error(ErrorCode::unsupported_dtype, "typestr",
                "dtype is " + repr_of(value) + ", which DLPack does not have");
  }
  return dtype;
}

// None and a missing entry: Numba exports None for what it made on the legacy stream.
intptr_t parse_interface_stream(PyObject* value) {
  if (value == nullptr || value == Py_None) return kLegacyStream;
  const int64_t stream = PyLong_Check(value) ? integer_of(value).value_or(0) : 0;
  if (stream <= 0) {
    throw Error(ErrorCode::stream_invalid, "stream",
                std::string(kCudaArrayAttribute) + "[\"stream\"] is " + repr_of(value) +
                    "; expected None, 1, 2 or a stream's handle (0 is not allowed)");
  }
  return stream;
}

Error* acquire(PyObject* x, Loan* loan) noexcept {
  loan->attach(hold(x));
  return nullptr;
}

const Adapter g_adapter{.traits = &neutral_traits(), .acquire = acquire};

}  // namespace

void describe_cuda_array(PyObject* interface, Loan& loan, intptr_t& stream) {
  if (!PyDict_Check(interface)) refuse("", repr_of(interface), "a dict");
  PyObject* version = entry(interface, "version");
  if (version == nullptr || integer_of(version).value_or(-1) < 2)
    refuse("version", found(version), "2 or 3");
  PyObject* mask = entry(interface, "mask");
  if (mask != nullptr && mask != Py_None) {
    throw Error(ErrorCode::masked_array, "mask",
                "x has a mask, which would be lost: pass its data and its mask as two arrays");
  }
  PyObject* shape = entry(interface, "shape");
  if (shape == nullptr || !PyTuple_Check(shape)) refuse("shape", found(shape), "a tuple");
  std::vector<int64_t> extents = read_integers(shape, "shape");
  DLTensor tensor{};
  tensor.dtype = parse_typestr(entry(interface, "typestr"));
  std::vector<int64_t> strides;
  PyObject* steps = entry(interface, "strides");
  const bool compact = steps == nullptr || steps == Py_None;
  if (!compact) strides = read_strides(steps, extents.size(), DType(tensor.dtype).itemsize());

  PyObject* data = entry(interface, "data");
  if (data == nullptr || !PyTuple_Check(data) || PyTuple_GET_SIZE(data) != 2 ||
      !PyLong_Check(PyTuple_GET_ITEM(data, 0))) {
    refuse("data", found(data), "a pair of an address and whether it is read-only");
  }
  tensor.data = PyLong_AsVoidPtr(PyTuple_GET_ITEM(data, 0));
  if (PyErr_Occurred()) {
    PyErr_Clear();
    refuse("data", repr_of(data), "an address");
  }
  const bool writable = PyObject_IsTrue(PyTuple_GET_ITEM(data, 1)) == 0;
  clear_exception();
  stream = parse_interface_stream(entry(interface, "stream"));
  tensor.shape = extents.data();
  tensor.strides = compact ? nullptr : strides.data();
  tensor.ndim = static_cast<int32_t>(extents.size());
  int32_t device = 0;
  const ReasonSet unusable = tensor.data != nullptr ? unusable_reasons() : ReasonSet{};
  if (tensor.data != nullptr && unusable.empty())
    check(require_device_module().device_of_pointer(tensor.data, &device));
  tensor.device = Device(DeviceType::cuda, device);
  read_descriptor(tensor, {writable ? Access::writable : Access::read_only}, loan);
  loan.view().reasons.add(unusable);
}

const Adapter& cuda_array_adapter() noexcept { return g_adapter; }

}  // namespace dlbridge::python
