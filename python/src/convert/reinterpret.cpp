// SPDX-License-Identifier: Apache-2.0
#include "convert/reinterpret.h"

#include <string>
#include <string_view>
#include <vector>

#include "bridge/registry.h"
#include "convert/arguments.h"
#include "dlbridge/layout.h"
#include "dlbridge/validate.h"
#include "sources/source.h"
#include "support/errors.h"
#include "tensor/value.h"

namespace dlbridge::python {
namespace {

[[noreturn]] void refuse(const char* field, const std::string& message) {
  throw Error(ErrorCode::invalid_argument, field, message);
}

DLDataType parse_dtype(PyObject* object) {
  DLDataType parsed;
  try {
    check(adapter_named("numpy").parse_dtype(object, &parsed));
  } catch (const Error& error) {
    if (error.code() != ErrorCode::byte_order) throw;
    throw Error(error.code(), "dtype",
                "dtype is " + repr_of(object) +
                    ", another byte order: pass numpy.frombuffer(x, dtype), which to_numpy() and "
                    "to_torch() convert with copy=None");
  }
  const DType dtype(parsed);
  if (dtype.is_subbyte()) {
    throw Error(ErrorCode::invalid_dtype, "dtype",
                "dtype is " + dtype.name() +
                    ", whose elements are no whole bytes: pass dtype=\"uint8\" and unpack it");
  }
  return dtype;
}

// The shape of `room` elements; one extent may be -1: what is left.
std::vector<int64_t> complete_shape(PyObject* shape, int64_t room) {
  if (shape == Py_None) return {room};
  std::vector<int64_t> extents = parse_shape(shape);
  int64_t others = 1;
  int64_t* open = nullptr;
  for (int64_t& extent : extents) {
    if (extent == -1 && open == nullptr) {
      open = &extent;
    } else if (extent < 0) {
      refuse("shape", "shape is " + repr_of(shape) + "; expected extents of which one may be -1");
    } else if (__builtin_mul_overflow(others, extent, &others)) {
      refuse("shape", "shape is " + repr_of(shape) + ", more elements than can be counted");
    }
  }
  if (open != nullptr) {
    if (others == 0 || room % others != 0) {
      refuse("shape", "shape is " + repr_of(shape) + ", which does not divide " +
                          std::to_string(room) + " elements");
    }
    *open = room / others;
    others = room;
  }
  if (others > room) {
    refuse("shape", "shape is " + repr_of(shape) + ", " + std::to_string(others) +
                        " elements; the memory has " + std::to_string(room));
  }
  return extents;
}

// The memory as it is, or the refusal that says why not.
void require_plain_bytes(const TensorView& view) {
  const Plan decision = plan(view, neutral_traits(), {});
  if (decision.verdict != Verdict::share) {
    // Its remedies are those of a conversion, which has a copy=.
    const Error error = refusal(view, neutral_traits(), {}, decision);
    std::string text = error.what();
    const std::string named = "pass copy=None";
    if (const size_t at = text.find(named); at != std::string::npos)
      text.replace(at, named.size(), "pass dlbridge.from_dlpack(x, copy=None)");
    throw Error(error.code(), error.field(), text);
  }
  if (!Device(view.device).is_host()) {
    throw Error(ErrorCode::device_not_named, "device",
                "device is " + Device(view.device).name() +
                    "; expected host memory: pass dlbridge.to_numpy(x, device=\"cpu\")");
  }
  if (!is_contiguous(view)) {
    refuse("strides", "x is not contiguous: pass dlbridge.from_dlpack(x, order=\"C\"), a copy");
  }
}

PyObject* reinterpret(PyObject* x, DLDataType dtype, PyObject* shape, PyObject* begin) {
  Source source;
  source.open(x);
  const TensorView& bytes = source.view();
  require_plain_bytes(bytes);
  const int64_t size = bytes.nbytes();
  const int64_t itemsize = DType(dtype).itemsize();
  const int64_t offset = begin == nullptr ? 0 : integer_of(begin).value_or(-1);
  if (offset < 0 || offset > size) {
    refuse_argument("offset", begin, PyIndex_Check(begin),
                    "0 to " + std::to_string(size) + " bytes, the size of x");
  }
  if (shape == Py_None && (size - offset) % itemsize != 0) {
    refuse("shape", std::to_string(size - offset) + " bytes are no multiple of " +
                        std::to_string(itemsize) + ", the size of " + DType(dtype).name() +
                        ": pass shape= for fewer elements");
  }
  const std::vector<int64_t> extents = complete_shape(shape, (size - offset) / itemsize);
  DLTensor tensor{};
  tensor.data = bytes.data == nullptr ? nullptr : static_cast<char*>(bytes.data) + offset;
  tensor.device = bytes.device;
  tensor.ndim = static_cast<int32_t>(extents.size());
  tensor.dtype = dtype;
  tensor.shape = const_cast<int64_t*>(extents.data());
  Loan loan;
  read_descriptor(tensor, {.access = bytes.access, .is_copied = bytes.is_copied}, loan);
  source.acquire();
  loan.original = source.loan().original;
  loan.attach(source.loan().release_deleter());
  return new_tensor(std::move(loan));
}

}  // namespace

PyObject* from_buffer(PyObject*, PyObject* args, PyObject* keywords) noexcept {
  static constexpr const char* kNames[] = {"", "dtype", "shape", "offset", nullptr};
  return translated([&] {
    PyObject *x = nullptr, *dtype = nullptr, *shape = Py_None, *offset = nullptr;
    read(args, keywords, "OO|OO:from_buffer", kNames, &x, &dtype, &shape, &offset);
    return reinterpret(x, parse_dtype(dtype), shape, offset);
  });
}

}  // namespace dlbridge::python
