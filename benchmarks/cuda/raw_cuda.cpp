// SPDX-License-Identifier: Apache-2.0
#include "raw_cuda.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "dlbridge/layout.h"

namespace dlbridge::bars {

void must(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(call) + ": " + cudaGetErrorName(error) + ", " +
                           cudaGetErrorString(error));
}

DeviceMemory::DeviceMemory(int64_t bytes) {
  must(cudaMalloc(&data_, static_cast<size_t>(bytes)), "cudaMalloc");
}

HostMemory::HostMemory(int64_t bytes, Pages pages) : bytes_(static_cast<size_t>(bytes)) {
  data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data_ == MAP_FAILED) throw std::bad_alloc();
  if (pages == Pages::touched) std::memset(data_, 0, bytes_);
}

HostMemory::~HostMemory() { munmap(data_, bytes_); }

RawStream::RawStream() {
  must(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}

RawEvent::RawEvent() {
  must(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
}

Shape::Shape(std::initializer_list<int64_t> extents, std::initializer_list<int64_t> strides,
             DLDataType dtype)
    : rank_(static_cast<int32_t>(extents.size())), dtype_(dtype) {
  std::copy(extents.begin(), extents.end(), extents_.begin());
  std::copy(strides.begin(), strides.end(), strides_.begin());
}

Shape::Shape(std::initializer_list<int64_t> extents, DLDataType dtype)
    : rank_(static_cast<int32_t>(extents.size())), dtype_(dtype) {
  std::copy(extents.begin(), extents.end(), extents_.begin());
  compact_strides({extents_.data(), extents.size()}, strides_.data());
}

TensorView Shape::view(DLDevice device, void* data) const noexcept {
  TensorView view;
  view.data = data;
  view.shape = extents_.data();
  view.strides = strides_.data();
  view.ndim = rank_;
  view.device = device;
  view.dtype = dtype_;
  return view;
}

Loan acquire(const TensorView& view) {
  Loan loan;
  loan.describe(view);
  return loan;
}

}  // namespace dlbridge::bars
