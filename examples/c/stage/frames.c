// SPDX-License-Identifier: Apache-2.0
#include "frames.h"

#include <stdio.h>

int gpu_is_usable(void) {
  char message[256] = "";
  dlb_cuda_info info = {
      .struct_size = sizeof info, .message = message, .message_capacity = sizeof message};
  if (dlb_cuda_availability(&info) != DLBRIDGE_OK) return 0;
  if (!info.usable) printf("%s (%s)\n", message, info.reason);
  return info.usable;
}

dlb_status write_frames(dlb_tensor* const* frames, size_t count, intptr_t stream,
                        void (*write)(const DLManagedTensorVersioned*)) {
  dlb_future* coming = NULL;
  dlb_status status = dlb_cuda_stage_to_host_async(frames, count, stream, NULL, &coming);
  if (status != DLBRIDGE_OK) return status;
  for (size_t i = 0; i < count && status == DLBRIDGE_OK; ++i) {
    dlb_tensor* frame = NULL;
    status = dlb_future_result(coming, i, &frame); /* waits */
    if (status != DLBRIDGE_OK) break;
    const DLManagedTensorVersioned* on_host = NULL;
    status = dlb_tensor_borrow(frame, &on_host);
    if (status == DLBRIDGE_OK) write(on_host);
    dlb_tensor_release(frame);
  }
  dlb_future_drop(coming);
  return status;
}

dlb_status send_mask(float value, const DLManagedTensorVersioned* target, intptr_t stream) {
  const DLTensor* like = &target->dl_tensor;
  dlb_tensor* mask = NULL;
  dlb_status status = dlb_cuda_pinned_empty(like->dtype, like->ndim, like->shape, &mask);
  if (status != DLBRIDGE_OK) return status;
  const DLManagedTensorVersioned* source = NULL;
  status = dlb_tensor_borrow(mask, &source);
  if (status == DLBRIDGE_OK) {
    float* values = (float*)source->dl_tensor.data;
    for (int64_t i = 0; i < like->shape[0] * like->shape[1]; ++i) values[i] = value;
    status = dlb_cuda_stage(&source, &target, 1, stream); /* returns after the read */
  }
  dlb_tensor_release(mask);
  return status;
}
