// SPDX-License-Identifier: Apache-2.0
#include "tensor/exports.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "convert/convert.h"
#include "dlbridge/layout.h"
#include "dlbridge/validate.h"
#include "support/errors.h"
#include "tensor/value.h"

namespace nb = nanobind;

namespace dlbridge::python {
namespace {

using Dims = std::vector<int64_t>;

void require_picklable(const TensorView& view) {
  if (!Device(view.device).is_host()) {
    throw Error(ErrorCode::device_not_named, "device",
                "device is " + Device(view.device).name() +
                    "; a pickle holds host memory alone: pickle dlbridge.from_dlpack(x, "
                    "device=\"cpu\")");
  }
  if (view.ndim > kMaxForeignRank) {
    throw Error(ErrorCode::too_many_dimensions, "ndim",
                "ndim is " + std::to_string(view.ndim) + "; a pickled Tensor has at most " +
                    std::to_string(kMaxForeignRank) +
                    " dimensions: reshape it to fewer dimensions");
  }
}

// Returns true if the elements fill their memory without gaps, in any order of dimensions: then
// `strides` are their own.
bool is_dense(const TensorView& view, const Dims& strides) noexcept {
  if (view.is_empty()) return true;
  for (int32_t i = 0; i < view.ndim; ++i) {
    if (view.shape[i] > 1 && view.strides[i] != strides[static_cast<size_t>(i)]) return false;
  }
  return true;
}

// A uint8 vector over the elements' memory, their strides in it, and DLPack's flag word for them.
std::tuple<nb::object, Dims, uint32_t> dense_bytes(nb::handle tensor) {
  const TensorView& view = expect_tensor(tensor.ptr()).view();
  require_picklable(view);
  Dims strides(static_cast<size_t>(view.ndim));
  dense_strides_like(view, strides.data());
  const Reference dense(is_dense(view, strides)
                            ? Py_NewRef(tensor.ptr())
                            : convert(tensor.ptr(), tensor_adapter(), {.copy = CopyMode::always}));
  Loan loan = unpack_tensor(dense.get()).share();
  const int64_t bytes = view.nbytes();
  loan.set_rank(1);
  loan.shape()[0] = bytes;
  loan.strides()[0] = 1;
  loan.view().dtype = DType(TypeCode::uint, 8);
  loan.view().subbyte_padded = false;
  loan.view().is_copied = false;
  const uint32_t flags = view.flags() & ~uint32_t{kIsCopied};
  return {nb::steal(new_tensor(std::move(loan))), std::move(strides), flags};
}

DLDataType known_dtype(const std::string& name) {
  if (const auto dtype = DType::parse(name)) return *dtype;
  throw Error(ErrorCode::invalid_dtype, "dtype",
              "dtype is " + name +
                  ", which this dlbridge does not know: load it with the dlbridge " +
                  "that wrote it");
}

void require_room(const TensorView& view, const TensorView& memory) {
  const auto range = byte_range(view.extents(), view.stride_elements(), view.itemsize());
  const bool packed = DType(view.dtype).is_subbyte() && !view.subbyte_padded;
  const int64_t needed = packed ? view.nbytes() : range->after;
  if (range->before == 0 && needed <= memory.nbytes()) return;
  throw Error(
      ErrorCode::invalid_argument, "data",
      "data has " + std::to_string(memory.nbytes()) + " bytes, shape and strides reach " +
          (range->before != 0 ? "before its beginning" : std::to_string(needed) + " bytes") +
          ": pass the buffers in the order in which buffer_callback was given them");
}

// A Tensor over `memory`, a dense uint8 vector. Never writable where `memory` is not.
nb::object tensor_over(nb::handle tensor, const std::string& dtype, Dims shape, Dims strides,
                       uint32_t flags) {
  Tensor& memory = expect_tensor(tensor.ptr());
  const TensorView& bytes = memory.view();
  if (!(DType(bytes.dtype) == DType(TypeCode::uint, 8)) || bytes.ndim != 1 ||
      !is_contiguous(bytes) || shape.size() != strides.size()) {
    throw Error(ErrorCode::invalid_argument, "data",
                "data is no dense vector of uint8, or shape and strides differ in length: pass "
                "what a pickle of dlbridge holds");
  }
  const DLTensor described{bytes.data,
                           bytes.device,
                           static_cast<int32_t>(std::min<size_t>(shape.size(), INT32_MAX)),
                           known_dtype(dtype),
                           shape.data(),
                           strides.data(),
                           0};
  const bool read_only = bytes.access != Access::writable || (flags & kReadOnly) != 0;
  Loan loan;
  read_descriptor(described,
                  {.access = read_only ? Access::read_only : Access::writable,
                   .is_copied = false,
                   .subbyte_padded = (flags & kSubbytePadded) != 0},
                  loan);
  require_room(loan.view(), bytes);
  loan.attach(memory.reference());
  loan.original = memory.original();
  return nb::steal(new_tensor(std::move(loan)));
}

}  // namespace

void bind_pickling(nb::module_& module) {
  module.def(
      "_dense_bytes", dense_bytes, nb::arg("tensor"),
      "Return the memory of a Tensor as a uint8 vector, copied only where the elements are not "
      "dense; the strides of the\nelements in it; DLPack's flag word for them.");
  module.def("_tensor_over", tensor_over, nb::arg("memory"), nb::arg("dtype"), nb::arg("shape"),
             nb::arg("strides"), nb::arg("flags"),
             "Return a Tensor over a uint8 vector: the inverse of _dense_bytes.");
}

}  // namespace dlbridge::python
