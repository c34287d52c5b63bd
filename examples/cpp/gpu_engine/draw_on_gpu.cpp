// SPDX-License-Identifier: Apache-2.0
// Draws by calls of the CUDA runtime; a real engine would launch kernels.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <stdexcept>

#include "engine.h"

namespace engine {

void draw(const dlbridge::TensorView& picture, uint8_t value, dlbridge::Stream stream) {
  const auto size = static_cast<size_t>(picture.nbytes());
  const size_t upper = size / 2;
  auto* first = static_cast<uint8_t*>(picture.data);
  auto* handle = static_cast<cudaStream_t>(stream.handle);
  for (const cudaError_t result :
       {cudaSetDevice(picture.device.device_id), cudaMemsetAsync(first, value, upper, handle),
        cudaMemsetAsync(first + upper, 255 - value, size - upper, handle)})
    if (result != cudaSuccess) throw std::runtime_error(cudaGetErrorString(result));
}

}  // namespace engine
