// SPDX-License-Identifier: Apache-2.0
// Runs the recorder over pictures in memory of the CUDA runtime. Without a GPU it says what is
// missing.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <utility>
#include <vector>

#include "dlbridge/cuda/device.h"
#include "recorder.h"

namespace {

constexpr int64_t kRows = 1080;
constexpr int64_t kColumns = 1920;

void check(cudaError_t result) {
  if (result != cudaSuccess) throw std::runtime_error(cudaGetErrorString(result));
}

// Returns a float32 picture on device 0; its deleter frees it. Every byte of it is `byte`, in the
// order of the stream.
dlbridge::Loan picture(int byte, cudaStream_t stream) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, kRows * kColumns * sizeof(float)));
  dlbridge::Loan loan;
  loan.set_rank(2);
  loan.shape()[0] = kRows, loan.shape()[1] = kColumns;
  loan.strides()[0] = kColumns, loan.strides()[1] = 1;  // in elements
  loan.view().data = memory;
  loan.view().device = {kDLCUDA, 0};
  loan.view().dtype = {kDLFloat, 32, 1};
  loan.attach({memory, [](void* context) noexcept { cudaFree(context); }});
  check(cudaMemsetAsync(memory, byte, kRows * kColumns * sizeof(float), stream));
  return loan;
}

// Returns whether there is a usable GPU; prints what is missing where there is none.
bool has_gpu() {
  const dlbridge::cuda::Availability found = dlbridge::cuda::availability();
  if (!found.usable) std::printf("%s\n", found.message.c_str());
  return found.usable;
}

}  // namespace

int main() try {
  if (!has_gpu()) return 0;
  cudaStream_t handle = nullptr;
  check(cudaSetDevice(0));
  check(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking));
  const dlbridge::Stream stream = dlbridge::cuda::stream_of(0, handle);
  {
    std::vector<dlbridge::Loan> pictures;
    for (const int byte : {0x3f, 0x40, 0x41}) pictures.push_back(picture(byte, handle));
    std::printf("brightest: %g\n", double{recorder::brightest(pictures[0].view(), stream)});
    recorder::record(std::move(pictures), stream, [](const dlbridge::TensorView& view) {
      std::printf("written: %lld bytes\n", static_cast<long long>(view.nbytes()));
    });
    const auto mask = recorder::send_mask(0.5f, picture(0, handle), stream);
    std::printf("mask: %g\n", double{recorder::brightest(mask.result().view(), stream)});
  }
  check(cudaStreamDestroy(handle));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
