// SPDX-License-Identifier: Apache-2.0
#include "copy/device_ring.h"

#include <algorithm>

#include "runtime/cuda_error.h"

namespace dlbridge::cuda {
namespace {

constexpr int64_t kSmallestSlotBytes = int64_t{1} << 20;

int64_t rounded(int64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

DeviceRing::DeviceRing(DeviceContext& device, cudaStream_t copies, cudaStream_t kernels,
                       int64_t bytes)
    : device_(device), copies_(copies), slot_bytes_(rounded(std::min(bytes, kSlotBytes))) {
  const CudaApi& api = device.api();
  for (Slot& slot : slots_) {
    slot.filled = device.events().take();
    slot.read = device.events().take();
  }
  void* memory = nullptr;
  while (true) {
    const cudaError_t answer =
        api.malloc_async(&memory, static_cast<size_t>(2 * slot_bytes_), kernels);
    if (answer == cudaSuccess) break;
    if (answer != cudaErrorMemoryAllocation || slot_bytes_ <= kSmallestSlotBytes)
      check(answer, "cudaMallocAsync");
    slot_bytes_ = std::max(kSmallestSlotBytes, slot_bytes_ / 4);
  }
  memory_ = static_cast<std::byte*>(memory);
  if (copies == kernels) return;
  // The memory is there in the order of `kernels`.
  const auto ordered = [&] {
    check(api.event_record(slots_[0].filled.get(), kernels), "cudaEventRecord");
    check(api.stream_wait_event(copies, slots_[0].filled.get(), 0), "cudaStreamWaitEvent");
  };
  try {
    ordered();
  } catch (...) {
    api.free_async(memory_, kernels);
    throw;
  }
}

DeviceRing::~DeviceRing() { device_.api().free_async(memory_, copies_); }

std::byte* DeviceRing::enter(cudaStream_t first) {
  current_ = 1 - current_;
  Slot& slot = slots_[current_];
  if (slot.used)
    check(device_.api().stream_wait_event(first, slot.read.get(), 0), "cudaStreamWaitEvent");
  slot.used = true;
  return memory_ + static_cast<int64_t>(current_) * slot_bytes_;
}

void DeviceRing::filled(cudaStream_t first, cudaStream_t second) {
  const PooledEvent& event = slots_[current_].filled;
  check(device_.api().event_record(event.get(), first), "cudaEventRecord");
  check(device_.api().stream_wait_event(second, event.get(), 0), "cudaStreamWaitEvent");
}

void DeviceRing::read(cudaStream_t second) {
  check(device_.api().event_record(slots_[current_].read.get(), second), "cudaEventRecord");
}

void DeviceRing::join(cudaStream_t stream) {
  for (const Slot& slot : slots_) {
    if (slot.used)
      check(device_.api().stream_wait_event(stream, slot.read.get(), 0), "cudaStreamWaitEvent");
  }
}

}  // namespace dlbridge::cuda
