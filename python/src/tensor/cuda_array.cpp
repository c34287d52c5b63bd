// SPDX-License-Identifier: Apache-2.0
// __cuda_array_interface__ and __array_interface__ of dlbridge.Tensor.
#include "sources/cuda_array.h"

#include <algorithm>
#include <iterator>
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
  const auto* kind =
      std::ranges::find(kTypestrKinds, type.code(), &std::pair<char, TypeCode>::second);
  if (kind == std::end(kTypestrKinds) || type.lanes() != 1 || type.is_subbyte()) return {};
  if (type.code() == TypeCode::complex && type.bits() < 64) return {};
  const char order = type.itemsize() == 1 ? '|' : '<';
  return std::string{order, kind->first} + std::to_string(type.itemsize());
}

[[noreturn]] void refuse_attribute(const char* name, const std::string& why) {
  PyErr_Format(PyExc_AttributeError, "dlbridge.Tensor has no %s here: %s", name, why.c_str());
  throw_pending();
}

// None for dense memory. Extents of 1 get the stride that dense memory would have.
Reference strides_in_bytes(const TensorView& view) {
  if (is_contiguous(view)) return Reference(Py_NewRef(Py_None));
  std::vector<int64_t> bytes(static_cast<size_t>(view.ndim));
  canonical_strides(view, bytes.data());
  for (int64_t& stride : bytes) stride *= view.itemsize();
  return checked(tuple_of(bytes));
}

// What both interfaces have; `name` is the attribute that is asked for.
Reference interface_of(const TensorView& view, const char* name, bool read_only) {
  const std::string typestr = typestr_of(view.dtype);
  if (typestr.empty()) {
    const bool real = DType(view.dtype).code() != TypeCode::complex;
    refuse_attribute(name, "NumPy has no code for its dtype " + DType(view.dtype).name() +
                               (real && Device(view.device).is_host()
                                    ? ": pass x.numpy(dtype=\"float32\"), a copy"
                                    : ""));
  }
  const Reference shape = checked(tuple_of(view.extents()));
  const Reference strides = strides_in_bytes(view);
  const Reference address = checked(PyLong_FromVoidPtr(view.is_empty() ? nullptr : view.data));
  return checked(Py_BuildValue("{sisOsss(OO)sO}", "version", 3, "shape", shape.get(), "typestr",
                               typestr.c_str(), "data", address.get(),
                               read_only ? Py_True : Py_False, "strides", strides.get()));
}

}  // namespace

PyObject* offer_cuda_array(const TensorView& view, intptr_t stream) {
  if (!Device(view.device).is_cuda())
    refuse_attribute(kCudaArrayAttribute,
                     "its memory is not on a CUDA device: pass "
                     "dlbridge.from_dlpack(x, device=\"cuda:0\"), a copy");
  const bool read_only = view.access != Access::writable;
  Reference interface = interface_of(view, kCudaArrayAttribute, read_only);
  const Reference after = stream == kNoSync
                              ? Reference(Py_NewRef(Py_None))
                              : checked(PyLong_FromSsize_t(stream == 0 ? kLegacyStream : stream));
  if (PyDict_SetItemString(interface.get(), "stream", after.get()) < 0) throw_pending();
  return interface.release();
}

PyObject* offer_array(const TensorView& view) {
  constexpr const char* kName = "__array_interface__";
  if (!Device(view.device).is_host())
    refuse_attribute(kName, "its memory is not on the host: pass x.numpy(device=\"cpu\"), a copy");
  const bool read_only = view.access != Access::writable || broadcast_dimension(view) >= 0;
  return interface_of(view, kName, read_only).release();
}

}  // namespace dlbridge::python
