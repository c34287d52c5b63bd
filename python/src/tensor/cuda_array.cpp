// SPDX-License-Identifier: Apache-2.0
// __cuda_array_interface__ of dlbridge.Tensor.
#include "sources/cuda_array.h"

#include <string>
#include <vector>

#include "bridge/device_module.h"
#include "dlbridge/layout.h"
#include "support/errors.h"
#include "tensor/exports.h"

namespace dlbridge::python {
namespace {

// Kind and size as NumPy writes them; empty where it has no code.
std::string typestr_of(DType type) {
  char kind = 0;
  switch (type.code()) {
    case TypeCode::int_:
      kind = 'i';
      break;
    case TypeCode::uint:
      kind = 'u';
      break;
    case TypeCode::float_:
      kind = 'f';
      break;
    case TypeCode::complex:
      kind = 'c';
      break;
    case TypeCode::boolean:
      kind = 'b';
      break;
    default:
      return {};
  }
  if (type.lanes() != 1 || type.is_subbyte()) return {};
  if (type.code() == TypeCode::complex && type.bits() < 64) return {};
  const char order = type.itemsize() == 1 ? '|' : '<';
  return std::string{order, kind} + std::to_string(type.itemsize());
}

[[noreturn]] void refuse_attribute(const char* why) {
  PyErr_Format(PyExc_AttributeError, "dlbridge.Tensor has no %s here: %s", kCudaArrayAttribute,
               why);
  throw_pending();
}

Reference strides_in_bytes(const TensorView& view) {
  if (is_contiguous(view)) return Reference(Py_NewRef(Py_None));
  std::vector<int64_t> bytes(view.stride_elements().begin(), view.stride_elements().end());
  for (int64_t& stride : bytes) stride *= view.itemsize();
  return checked(tuple_of(bytes));
}

}  // namespace

PyObject* offer_cuda_array(const TensorView& view, intptr_t stream) {
  if (!Device(view.device).is_cuda()) refuse_attribute("its memory is not on a CUDA device");
  const std::string typestr = typestr_of(view.dtype);
  if (typestr.empty()) refuse_attribute("NumPy has no code for its dtype");
  const Reference shape = checked(tuple_of(view.extents()));
  const Reference strides = strides_in_bytes(view);
  const Reference after = stream == kNoSync
                              ? Reference(Py_NewRef(Py_None))
                              : checked(PyLong_FromSsize_t(stream == 0 ? kLegacyStream : stream));
  const Reference address = checked(PyLong_FromVoidPtr(view.is_empty() ? nullptr : view.data));
  const Reference data =
      checked(PyTuple_Pack(2, address.get(), view.access == Access::writable ? Py_False : Py_True));
  return checked(Py_BuildValue("{sisOsssOsOsO}", "version", 3, "shape", shape.get(), "typestr",
                               typestr.c_str(), "data", data.get(), "strides", strides.get(),
                               "stream", after.get()))
      .release();
}

}  // namespace dlbridge::python
