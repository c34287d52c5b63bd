/* Frames between a GPU and the host, in C. It knows dlbridge and no header of CUDA. */
#ifndef FRAMES_H
#define FRAMES_H

#include "dlbridge/cuda/c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Says on the standard output what is missing. Returns whether there is a GPU to use. */
int gpu_is_usable(void);

/* Calls `write` with each frame, on the host, in order. While one is written the others come. */
dlb_status write_frames(dlb_tensor* const* frames, size_t count, intptr_t stream,
                        void (*write)(const DLManagedTensorVersioned*));

/* A float32 mask of `value` everywhere, in pinned memory, goes into `target`, a device tensor of
 * rank 2. The mask is there for whatever is enqueued on `stream` after the call. */
dlb_status send_mask(float value, const DLManagedTensorVersioned* target, intptr_t stream);

#ifdef __cplusplus
}
#endif

#endif
