// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/validate.h"

#include <algorithm>
#include <string>

#include "dlbridge/layout.h"

namespace dlbridge {
namespace {

[[noreturn]] void refuse(ErrorCode code, const char* field, const std::string& message) {
  throw Error(code, field, std::string(field) + " " + message);
}

void check_shape(const DLTensor& tensor) {
  if (tensor.ndim < 0 || tensor.ndim > kMaxForeignRank) {
    refuse(ErrorCode::invalid_ndim, "ndim",
           "is " + std::to_string(tensor.ndim) + "; expected 0 to " +
               std::to_string(kMaxForeignRank) + ": export fewer dimensions");
  }
  if (tensor.ndim > 0 && tensor.shape == nullptr) {
    refuse(ErrorCode::null_shape, "shape",
           "is null at rank " + std::to_string(tensor.ndim) + "; expected one extent a dimension");
  }
  for (int32_t i = 0; i < tensor.ndim; ++i) {
    if (tensor.shape[i] < 0) {
      refuse(ErrorCode::negative_extent, "shape",
             "in dimension " + std::to_string(i) + " is " + std::to_string(tensor.shape[i]) +
                 "; expected 0 or more");
    }
  }
}

void check_types(const DLTensor& tensor) {
  const DType dtype(tensor.dtype);
  if (!dtype.is_known()) {
    refuse(ErrorCode::unknown_dtype, "dtype",
           "is " + dtype.name() + ", which DLPack's tables do not define; expected one they do");
  }
  const Device device(tensor.device);
  if (!device.is_known()) {
    refuse(ErrorCode::unknown_device, "device",
           "is " + device.name() + ", which DLPack's tables do not define; expected one they do");
  }
  if (device.id() < 0 && !device.is_host()) {
    refuse(ErrorCode::unknown_device, "device",
           "is " + device.name() + "; expected an id of 0 or more");
  }
}

// Writes shape and strides; checks that every address lies within the address space.
void read_layout(const DLTensor& tensor, Loan& loan) {
  loan.set_rank(tensor.ndim);
  std::copy_n(tensor.shape, tensor.ndim, loan.shape());
  const std::span<const int64_t> shape(loan.shape(), static_cast<size_t>(tensor.ndim));
  // Extents of zero count as one: the others must fit for an empty tensor too, or its compact
  // strides would wrap and NumPy could not hold it.
  int64_t bytes = DType(tensor.dtype).itemsize();
  for (const int64_t extent : shape) {
    if (extent != 0 && __builtin_mul_overflow(bytes, extent, &bytes)) {
      refuse(ErrorCode::extent_overflow, "shape",
             "has more elements than 64 bits of bytes can count; expected a product that fits");
    }
  }
  if (tensor.strides != nullptr) {
    std::copy_n(tensor.strides, tensor.ndim, loan.strides());
  } else {
    compact_strides(shape, loan.strides());
  }
}

uint64_t check_address(const DLTensor& tensor, const TensorView& view) {
  const auto range = byte_range(view.extents(), view.stride_elements(), view.itemsize());
  int64_t span = 0;
  if (!range || __builtin_add_overflow(range->before, range->after, &span)) {
    refuse(ErrorCode::stride_overflow, "strides",
           "reach further than 64 bits of bytes; expected memory that fits the address space");
  }
  if (tensor.data == nullptr && range->after > 0) {
    refuse(ErrorCode::null_data, "data", "is null though the tensor has elements; expected memory");
  }
  const Device device(tensor.device);
  if (!device.has_addresses()) return 0;
  const auto base = reinterpret_cast<uint64_t>(tensor.data);
  uint64_t first = 0;
  uint64_t end = 0;
  if (__builtin_add_overflow(base, tensor.byte_offset, &first) ||
      first < static_cast<uint64_t>(range->before) ||
      __builtin_add_overflow(first, static_cast<uint64_t>(range->after), &end)) {
    refuse(ErrorCode::address_overflow, "byte_offset",
           "is " + std::to_string(tensor.byte_offset) +
               ", which together with data and strides leaves the address space; expected memory "
               "within it");
  }
  return first;
}

}  // namespace

void read_descriptor(const DLTensor& tensor, const DescriptorTraits& traits, Loan& loan) {
  check_shape(tensor);
  check_types(tensor);
  read_layout(tensor, loan);
  TensorView& view = loan.view();
  view.dtype = tensor.dtype;
  view.device = tensor.device;
  view.access = traits.access;
  view.is_copied = traits.is_copied;
  view.subbyte_padded = traits.subbyte_padded && DType(tensor.dtype).is_subbyte();
  const uint64_t address = check_address(tensor, view);
  if (Device(tensor.device).has_addresses()) {
    view.data = reinterpret_cast<void*>(address);
    view.byte_offset = 0;
  } else {
    view.data = tensor.data;
    view.byte_offset = tensor.byte_offset;
  }
  if (DType(view.dtype).is_subbyte() && !view.subbyte_padded && !is_contiguous(view)) {
    refuse(ErrorCode::packed_subbyte, "strides",
           "leave gaps between elements packed below a byte; expected row-major strides");
  }
}

void read_prototype(const DLTensor& prototype, Loan& loan) {
  check_shape(prototype);
  check_types(prototype);
  DLTensor bare = prototype;
  bare.strides = nullptr;
  read_layout(bare, loan);
  TensorView& view = loan.view();
  view.data = nullptr;
  view.dtype = prototype.dtype;
  view.device = prototype.device;
}

}  // namespace dlbridge
