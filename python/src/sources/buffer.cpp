// SPDX-License-Identifier: Apache-2.0
#include "sources/buffer.h"

#include <bit>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dlbridge/python_object/hold.h"
#include "dlbridge/validate.h"
#include "support/errors.h"

namespace dlbridge::python {
namespace {

bool is_numpy_scalar(PyTypeObject* type) noexcept {
  for (; type != nullptr; type = type->tp_base) {
    if (std::strcmp(type->tp_name, "numpy.generic") == 0) return true;
  }
  return false;
}

// The element type of a format of the struct module, its itemsize in bytes; nothing where DLPack
// has none. `swapped` is set where the byte order is not the machine's.
std::optional<DType> parse_format(std::string_view format, int64_t itemsize, bool& swapped) {
  constexpr bool kLittle = std::endian::native == std::endian::little;
  if (!format.empty() && std::strchr("@=<>!", format.front()) != nullptr) {
    const bool big = format.front() == '>' || format.front() == '!';
    swapped = itemsize > 1 && (kLittle ? big : format.front() == '<');
    format.remove_prefix(1);
  }
  const int bits = static_cast<int>(itemsize * 8);
  if (itemsize < 1 || itemsize > 16) return std::nullopt;
  if (format == "?") return DType(TypeCode::boolean, bits);
  if (format == "e" || format == "f" || format == "d") return DType(TypeCode::float_, bits);
  if (format == "Zf" || format == "Zd") return DType(TypeCode::complex, bits);
  if (format.size() != 1) return std::nullopt;
  if (std::strchr("bhilqn", format.front()) != nullptr) return DType(TypeCode::int_, bits);
  if (std::strchr("cBHILQN", format.front()) != nullptr) return DType(TypeCode::uint, bits);
  return std::nullopt;
}

DLDataType dtype_of(const Py_buffer& buffer) {
  const char* format = buffer.format != nullptr ? buffer.format : "B";
  bool swapped = false;
  const auto dtype = parse_format(format, buffer.itemsize, swapped);
  if (!dtype || !dtype->is_known() || swapped) {
    throw Error(ErrorCode::unsupported_dtype, "dtype",
                "the buffer's format is \"" + std::string(format) + "\", " +
                    (swapped ? "another byte order" : "which DLPack does not have") +
                    ": pass numpy.asarray(x)");
  }
  return *dtype;
}

void read_strides(const Py_buffer& buffer, std::vector<int64_t>& strides) {
  for (int i = 0; i < buffer.ndim; ++i) {
    if (buffer.strides[i] % buffer.itemsize != 0 && buffer.shape[i] > 1) {
      throw Error(ErrorCode::stride_not_multiple, "strides",
                  "the buffer's strides are no multiples of its elements' size: pass "
                  "numpy.array(x), a copy");
    }
    strides.push_back(buffer.strides[i] / buffer.itemsize);
  }
}

Error* describe(PyObject* x, Loan* loan) noexcept {
  return guarded([&] {
    const Py_buffer& buffer = *PyMemoryView_GET_BUFFER(x);
    if (buffer.suboffsets != nullptr) {
      throw Error(ErrorCode::invalid_argument, "suboffsets",
                  "the buffer consists of pointers to rows: pass numpy.array(x), a copy");
    }
    DLTensor tensor{};
    tensor.data = buffer.buf;
    tensor.device = Device(DeviceType::cpu);
    tensor.dtype = dtype_of(buffer);
    const std::vector<int64_t> extents(buffer.shape, buffer.shape + buffer.ndim);
    std::vector<int64_t> strides;
    if (buffer.strides != nullptr) read_strides(buffer, strides);
    tensor.ndim = buffer.ndim;
    tensor.shape = const_cast<int64_t*>(extents.data());
    tensor.strides = buffer.strides != nullptr ? strides.data() : nullptr;
    read_descriptor(tensor, {buffer.readonly != 0 ? Access::read_only : Access::writable}, *loan);
  });
}

Error* acquire(PyObject* x, Loan* loan) noexcept {
  loan->attach(hold(x));
  return nullptr;
}

const Adapter g_adapter = [] {
  Adapter adapter;
  adapter.traits = &neutral_traits();
  adapter.accepts = [](PyObject*) noexcept { return false; };
  adapter.describe = describe;
  adapter.acquire = acquire;
  return adapter;
}();

}  // namespace

Reference buffer_of(PyObject* x) {
  if (PyObject_CheckBuffer(x) == 0 || is_numpy_scalar(Py_TYPE(x))) return {};
  return checked(parked_at_exit([x] { return PyMemoryView_FromObject(x); }));
}

const Adapter& buffer_adapter() noexcept { return g_adapter; }

}  // namespace dlbridge::python
