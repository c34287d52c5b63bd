// SPDX-License-Identifier: Apache-2.0
/* Frames between a GPU and the host, in C. It includes no CUDA header. */
#ifndef FRAMES_H
#define FRAMES_H

#include "dlbridge/cuda/c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Returns whether there is a usable GPU; prints what is missing otherwise. */
int gpu_is_usable(void);

/* Calls `write` with each frame, on the host, in order, while the next ones are copied. */
dlb_status write_frames(dlb_tensor* const* frames, size_t count, intptr_t stream,
                        void (*write)(const DLManagedTensorVersioned*));

/* Copies a float32 mask of `value` from pinned memory into `target`, a device tensor of rank 2.
 * Work that is enqueued on `stream` after the call sees the mask. */
dlb_status send_mask(float value, const DLManagedTensorVersioned* target, intptr_t stream);

#ifdef __cplusplus
}
#endif

#endif
