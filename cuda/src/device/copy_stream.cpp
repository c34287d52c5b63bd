// SPDX-License-Identifier: Apache-2.0
#include "device/copy_stream.h"

#include <algorithm>
#include <bit>

#include "runtime/cuda_error.h"

namespace dlbridge::cuda {
namespace {

constexpr int64_t kSmallestSlotBytes = int64_t{64} << 10;

}  // namespace

OwnedStream make_stream(const CudaApi& api) {
  CUstream stream = nullptr;
  check(api.stream_create_with_flags(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  return {stream, DestroyStream{&api}};
}

CUstream CopyStream::kernels() {
  if (!kernels_) kernels_ = make_stream(api_);
  return kernels_.get();
}

int64_t CopyStream::reserve(int64_t bytes, EventPool& events, CUstream allocations) {
  // A power of two, so that the slots grow a few times only.
  auto wanted = static_cast<int64_t>(
      std::bit_ceil(static_cast<uint64_t>(std::clamp(bytes, kSmallestSlotBytes, kSlotBytes))));
  for (PooledEvent& read : reads_) {
    if (!read) read = events.take();
  }
  void* memory = nullptr;
  CUresult answer = CUDA_ERROR_OUT_OF_MEMORY;
  while (wanted > slot_bytes_) {
    answer = api_.malloc_async(&memory, static_cast<size_t>(2 * wanted), allocations);
    if (answer != CUDA_ERROR_OUT_OF_MEMORY || wanted == kSmallestSlotBytes) break;
    wanted = std::max(kSmallestSlotBytes, wanted / 4);
  }
  if (answer == CUDA_ERROR_OUT_OF_MEMORY && slot_bytes_ > 0) return slot_bytes_;
  check(answer, "cuMemAllocAsync");
  try {
    if (memory_ != nullptr) {
      for (const PooledEvent& read : reads_)
        check(api_.stream_wait_event(copies(), read.get(), 0), "cuStreamWaitEvent");
      free_slots();
    }
    // Until the memory is there, no slot has been read.
    for (const PooledEvent& read : reads_)
      check(api_.event_record(read.get(), allocations), "cuEventRecord");
  } catch (...) {
    api_.free_async(memory, allocations);
    throw;
  }
  memory_ = static_cast<std::byte*>(memory);
  slot_bytes_ = wanted;
  return slot_bytes_;
}

void CopyStream::free_slots() noexcept {
  if (memory_ != nullptr) api_.free_async(memory_, copies());
  memory_ = nullptr;
  slot_bytes_ = 0;
}

std::byte* CopyStream::enter(CUstream first) {
  current_ = 1 - current_;
  check(api_.stream_wait_event(first, reads_[current_].get(), 0), "cuStreamWaitEvent");
  return memory_ + static_cast<int64_t>(current_) * slot_bytes_;
}

void CopyStream::read(CUstream second) {
  check(api_.event_record(reads_[current_].get(), second), "cuEventRecord");
}

}  // namespace dlbridge::cuda
