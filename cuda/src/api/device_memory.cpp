// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/cuda/device_memory.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "dlbridge/layout.h"
#include "operation/operation.h"
#include "operation/results.h"
#include "runtime/cuda_error.h"
#include "runtime/guards.h"

namespace dlbridge::cuda {
namespace {

// One piece of device memory, with the streams that have used it.
class DeviceBlock {
 public:
  DeviceBlock(Engine& engine, DeviceContext& device, size_t bytes)
      : engine_(engine),
        device_(device),
        device_index_(device.index()),
        copy_stream_(device.copy_stream_for(nullptr).copy_stream().copies()),
        free_stream_(device.free_stream()),
        users_{copy_stream_} {
    const cudaError_t answer = device.api().malloc_async(&memory_, bytes, copy_stream_);
    if (answer == cudaErrorMemoryAllocation) {
      throw Error(ErrorCode::out_of_memory, "device memory",
                  std::to_string(bytes) + " bytes do not fit into the memory of cuda:" +
                      std::to_string(device.index()) + ": drop tensors that are held there");
    }
    check(answer, "cudaMallocAsync");
  }
  DeviceBlock(const DeviceBlock&) = delete;
  DeviceBlock& operator=(const DeviceBlock&) = delete;

  void* memory() const noexcept { return memory_; }
  int device_index() const noexcept { return device_index_; }

  // Makes users of the memory wait for the allocation.
  void show_to(const CheckedStream& stream) {
    const CudaApi& api = device_.api();
    if (!stream.ordered) {
      check(api.stream_synchronize(copy_stream_), "cudaStreamSynchronize");
      users_.clear();
      return;
    }
    device_.order(copy_stream_, stream.handle);
    users_ = {named(stream.handle)};
  }

  void used_by(cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    if (std::find(users_.begin(), users_.end(), named(stream)) == users_.end())
      users_.push_back(named(stream));
  }

  // Frees the memory in stream order; the host does not wait. Returns false if a stream is being
  // captured: a stream that waited for it would become part of the capture. On failure the memory
  // is leaked, since work may still use it.
  bool give_back() noexcept {
    if (Engine::existing() != &engine_ || !device_.alive()) return true;
    try {
      const CudaApi& api = device_.api();
      const CallGuard guard(api, device_.context());
      for (const cudaStream_t user : users_) {
        const Capture capture = capture_of(api, user);
        if (capture.active) return false;
        check(capture.answer, "cudaStreamIsCapturing");
      }
      for (const cudaStream_t user : users_) device_.order(user, free_stream_);
      check(api.free_async(memory_, free_stream_), "cudaFreeAsync");
    } catch (const CudaError& error) {
      device_.note(error.cuda_code());
    } catch (const std::exception&) {
      // Leaked.
    }
    return true;
  }

  DeviceBlock* next = nullptr;

 private:
  // The per-thread stream differs on the thread that frees; the legacy stream waits for all of
  // them.
  static cudaStream_t named(cudaStream_t stream) noexcept {
    return stream == nullptr || stream == cudaStreamPerThread ? cudaStreamLegacy : stream;
  }

  Engine& engine_;
  DeviceContext& device_;
  int device_index_;  // valid after the engine's end
  cudaStream_t copy_stream_;
  cudaStream_t free_stream_;
  void* memory_ = nullptr;
  std::mutex mutex_;
  std::vector<cudaStream_t> users_;
};

// Blocks that wait for the end of a capture. Every allocation and free tries again.
std::mutex g_waiting_mutex;
DeviceBlock* g_waiting = nullptr;

void give_back_or_keep(DeviceBlock* block) noexcept {
  if (block->give_back()) {
    delete block;
    return;
  }
  const std::lock_guard lock(g_waiting_mutex);
  block->next = std::exchange(g_waiting, block);
}

void give_back_waiting() noexcept {
  if (Engine::existing() == nullptr) return;  // no lock in the child of a fork
  DeviceBlock* block = nullptr;
  {
    const std::lock_guard lock(g_waiting_mutex);
    block = std::exchange(g_waiting, nullptr);
  }
  while (block != nullptr) give_back_or_keep(std::exchange(block, block->next));
}

void give_back(void* context) noexcept {
  give_back_waiting();
  give_back_or_keep(static_cast<DeviceBlock*>(context));
}

}  // namespace

Loan device_empty(const TensorView& like, Stream stream) {
  Engine& engine = Engine::get();
  DeviceContext& device = engine.started(stream.device.device_id);
  const CallGuard guard(engine.api(), device.context());
  const CheckedStream checked = engine.checked(stream, device);
  Loan loan = describe_result(like, false);
  TensorView& view = loan.view();
  view.device = Device(DeviceType::cuda, device.index());
  view.is_copied = false;
  if (like.is_empty()) return loan;
  give_back_waiting();
  try {
    std::unique_ptr<DeviceBlock, decltype(&give_back_or_keep)> block(
        new DeviceBlock(engine, device, static_cast<size_t>(like.nbytes())), give_back_or_keep);
    block->show_to(checked);
    view.data = block->memory();
    loan.attach({block.release(), give_back});
  } catch (const CudaError& error) {
    device.note(error.cuda_code());
    throw;
  }
  return loan;
}

int32_t device_of_address(const void* address) {
  Engine& engine = Engine::get();
  cudaPointerAttributes found{};
  found.type = cudaMemoryTypeUnregistered;
  cudaError_t answer = cudaSuccess;
  // Without a context CUDA would make one on the first device.
  if (const CUcontext context = engine.context_in_use()) {
    const CallGuard guard(engine.api(), context);
    answer = engine.api().pointer_get_attributes(&found, address);
  }
  if (answer != cudaSuccess ||
      (found.type != cudaMemoryTypeDevice && found.type != cudaMemoryTypeManaged)) {
    throw Error(ErrorCode::invalid_device, "data",
                "data is not memory of a CUDA device: fix the producer");
  }
  return found.device;
}

bool shares_managed_memory(int32_t device_id) {
  Engine& engine = Engine::get();
  const LastErrorGuard guard(engine.api());
  int concurrent = 0;
  const cudaError_t answer =
      engine.api().device_get_attribute(&concurrent, cudaDevAttrConcurrentManagedAccess, device_id);
  if (answer == cudaErrorInvalidDevice) {
    throw Error(
        ErrorCode::invalid_device, "device",
        "device is cuda:" + std::to_string(device_id) + ", which this machine does not have");
  }
  check(answer, "cudaDeviceGetAttribute");
  return concurrent != 0;
}

bool record_device_stream(const Deleter& deleter, Stream stream) {
  if (deleter.release != give_back) return false;
  auto* block = static_cast<DeviceBlock*>(deleter.context);
  const auto number = reinterpret_cast<intptr_t>(stream.handle);
  if (number == kNoSync || stream.device.device_id != block->device_index()) return true;
  block->used_by(static_cast<cudaStream_t>(stream.handle));
  return true;
}

}  // namespace dlbridge::cuda
