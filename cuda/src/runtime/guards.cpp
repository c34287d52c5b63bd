// SPDX-License-Identifier: Apache-2.0
#include "runtime/guards.h"

#include "runtime/cuda_error.h"

namespace dlbridge::cuda {

Capture capture_of(const CudaApi& api, CUstream stream) noexcept {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  const CUresult answer = api.stream_is_capturing(stream, &status);
  return {answer,
          answer == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT || status != CU_STREAM_CAPTURE_STATUS_NONE};
}

PointerAttributes attributes_of(const CudaApi& api, const void* address) noexcept {
  CUpointer_attribute asked[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_IS_MANAGED,
                                 CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
  unsigned type = 0;
  unsigned managed = 0;
  int device = -1;
  void* answers[] = {&type, &managed, &device};
  // Success, with zeros, for memory that CUDA does not know.
  PointerAttributes found{api.pointer_get_attributes(3, asked, answers, address)};
  if (found.answer != CUDA_SUCCESS) return found;
  if (type == CU_MEMORYTYPE_HOST) found.kind = MemoryKind::pinned;
  if (type == CU_MEMORYTYPE_DEVICE) found.kind = MemoryKind::device;
  if (type != 0 && managed != 0) found.kind = MemoryKind::managed;
  if (type != 0) found.device = device;
  return found;
}

CallGuard::CallGuard(const CudaApi& api, CUcontext context)
    : CallGuard(api, context, std::nothrow) {
  check(entered_, "cuCtxPushCurrent");
}

CallGuard::CallGuard(const CudaApi& api, CUcontext context, std::nothrow_t) noexcept
    : api_(api), entered_(api.ctx_get_current(&callers_)) {
  if (callers_ != context) {
    entered_ = api_.ctx_push_current(context);
    pushed_ = true;
  }
  if (entered()) api_.thread_exchange_stream_capture_mode(&mode_);
}

CallGuard::~CallGuard() {
  if (!entered()) return;
  api_.thread_exchange_stream_capture_mode(&mode_);
  if (!pushed_) return;
  CUcontext mine = nullptr;
  api_.ctx_pop_current(&mine);
}

}  // namespace dlbridge::cuda
