// SPDX-License-Identifier: Apache-2.0
// CUDA called directly, as a user without dlbridge would: what the bars compare with. Owners of
// what is made by such calls.
//
// Thread: one, unless said.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <utility>

#include "dlbridge/loan.h"
#include "dlbridge/tensor_view.h"

namespace dlbridge::bars {

/// Throws std::runtime_error naming `call` unless `error` is cudaSuccess.
void must(cudaError_t error, const char* call);

class DeviceMemory {
 public:
  explicit DeviceMemory(int64_t bytes);
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  void* data() const noexcept { return data_; }

 private:
  void* data_ = nullptr;
};

/// Ordinary host memory, straight from the system.
class HostMemory {
 public:
  enum class Pages { fresh, touched };
  HostMemory(int64_t bytes, Pages pages);
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  void* data() const noexcept { return data_; }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

class RawStream {
 public:
  RawStream();
  ~RawStream() { cudaStreamDestroy(stream_); }
  RawStream(const RawStream&) = delete;
  RawStream& operator=(const RawStream&) = delete;
  operator cudaStream_t() const noexcept { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class RawEvent {
 public:
  RawEvent();
  ~RawEvent() { cudaEventDestroy(event_); }
  RawEvent(const RawEvent&) = delete;
  RawEvent& operator=(const RawEvent&) = delete;
  operator cudaEvent_t() const noexcept { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

inline constexpr DLDataType kWord{kDLUInt, 32, 1};

/// Shape and strides (in elements) of a tensor, kept for its views.
class Shape {
 public:
  Shape(std::initializer_list<int64_t> extents, std::initializer_list<int64_t> strides,
        DLDataType dtype = kWord);
  /// Row-major.
  explicit Shape(std::initializer_list<int64_t> extents, DLDataType dtype = kWord);
  /// One dimension of words that holds `bytes`.
  static Shape flat(int64_t bytes) { return Shape({bytes / 4}); }

  int64_t bytes() const noexcept { return view(DLDevice{kDLCPU, 0}, nullptr).nbytes(); }
  /// Borrows this.
  TensorView view(DLDevice device, void* data) const noexcept;

 private:
  std::array<int64_t, 4> extents_{};
  std::array<int64_t, 4> strides_{};
  int32_t rank_;
  DLDataType dtype_;
};

/// A loan of memory that outlives the work: nothing to free.
Loan acquire(const TensorView& view);

}  // namespace dlbridge::bars
