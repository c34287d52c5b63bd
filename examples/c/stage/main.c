// SPDX-License-Identifier: Apache-2.0
/* Copies a mask into memory of the CUDA runtime and prints the memory. Without a GPU it says what
 * is missing. */
#include <cuda_runtime_api.h>
#include <stdio.h>

#include "frames.h"

enum { kRows = 3, kColumns = 4 };

static void free_frame(DLManagedTensorVersioned* self) { cudaFree(self->dl_tensor.data); }

static void print_sum(const DLManagedTensorVersioned* frame) {
  const float* values = (const float*)frame->dl_tensor.data;
  float sum = 0;
  for (int i = 0; i < kRows * kColumns; ++i) sum += values[i];
  printf("sum: %g\n", (double)sum);
}

int main(void) {
  if (!gpu_is_usable()) return 0;
  int64_t shape[2] = {kRows, kColumns};
  DLManagedTensorVersioned managed = {.version = {1, 0}, .deleter = free_frame};
  managed.dl_tensor.device = (DLDevice){kDLCUDA, 0};
  managed.dl_tensor.dtype = (DLDataType){kDLFloat, 32, 1};
  managed.dl_tensor.ndim = 2;
  managed.dl_tensor.shape = shape;
  cudaStream_t stream = NULL;
  if (cudaMalloc(&managed.dl_tensor.data, kRows * kColumns * sizeof(float)) != cudaSuccess ||
      cudaStreamCreate(&stream) != cudaSuccess)
    return 1;
  dlb_tensor* frame = NULL;
  dlb_status status = dlb_adopt(&managed, &frame);
  if (status == DLBRIDGE_OK) status = send_mask(0.5f, &managed, (intptr_t)stream);
  if (status == DLBRIDGE_OK) status = write_frames(&frame, 1, (intptr_t)stream, print_sum);
  if (status != DLBRIDGE_OK) {
    dlb_error error = {.struct_size = sizeof error};
    dlb_last_error(&error);
    fprintf(stderr, "%s (%s)\n", error.message, error.code);
  }
  dlb_tensor_release(frame);
  cudaStreamDestroy(stream);
  return status != DLBRIDGE_OK;
}
