// SPDX-License-Identifier: Apache-2.0
#include "device/copy_stream.h"

#include "device/device_context.h"
#include "runtime/cuda_error.h"

namespace dlbridge::cuda {

CopyStream::CopyStream(DeviceContext& device) : device_(device) {
  const CudaApi& api = device.api();
  check(api.stream_create_with_flags(&copies_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  try {
    check(api.stream_create_with_flags(&kernels_, cudaStreamNonBlocking),
          "cudaStreamCreateWithFlags");
    waiter_ = std::make_unique<Waiter>(api, device.context());
  } catch (...) {
    if (kernels_ != nullptr) api.stream_destroy(kernels_);
    api.stream_destroy(copies_);
    throw;
  }
}

CopyStream::~CopyStream() {
  device_.api().stream_destroy(kernels_);
  device_.api().stream_destroy(copies_);
}

}  // namespace dlbridge::cuda
