// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/cuda/device_memory.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "dlbridge/copy.h"
#include "dlbridge/layout.h"
#include "operation/operation.h"
#include "runtime/cuda_error.h"
#include "runtime/guards.h"

namespace dlbridge::cuda {
namespace {

// One piece of device memory, with the streams that have used it.
class DeviceBlock final : public Completion {
 public:
  // Allocates in the order of `stream`, which may use the memory at once.
  DeviceBlock(Engine& engine, DeviceContext& device, size_t bytes, const CheckedStream& stream)
      : engine_(engine), device_(device), device_index_(device.index()) {
    const CudaApi& api = device.api();
    const cudaStream_t first = stream.ordered ? stream.handle : device.allocation_stream();
    const cudaError_t answer = api.malloc_async(&memory_, bytes, first);
    if (answer == cudaErrorMemoryAllocation) {
      throw Error(ErrorCode::out_of_memory, "device memory",
                  std::to_string(bytes) + " bytes do not fit into the memory of cuda:" +
                      std::to_string(device.index()) + ": drop tensors that are held there");
    }
    check(answer, "cudaMallocAsync");
    users_.push_back(named(first));
  }
  DeviceBlock(const DeviceBlock&) = delete;
  DeviceBlock& operator=(const DeviceBlock&) = delete;

  void* memory() const noexcept { return memory_; }
  int device_index() const noexcept { return device_index_; }

  // Waits for the allocation, for callers who order nothing.
  void wait_for_allocation() {
    check(device_.api().stream_synchronize(device_.allocation_stream()), "cudaStreamSynchronize");
    users_.clear();
  }

  void used_by(cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    if (std::find(users_.begin(), users_.end(), named(stream)) == users_.end())
      users_.push_back(named(stream));
  }

  // Frees `block` when the streams that used it have run; nothing waits for that but a thread.
  // Returns false if one of them is being captured: the caller keeps the block. On failure the
  // memory is leaked, since work may still use it.
  static bool give_back(std::unique_ptr<DeviceBlock>& block) noexcept {
    DeviceContext& device = block->device_;
    if (Engine::existing() != &block->engine_ || !device.alive()) return true;
    try {
      const CallGuard guard(device.api(), device.context());
      for (cudaStream_t& user : block->users_) {
        Capture capture = capture_of(device.api(), user);
        if (!capture.active && capture.answer != cudaSuccess &&
            !device.fails_with(capture.answer)) {
          // A stream that was destroyed before its tensor. The legacy stream stands for it.
          user = cudaStreamLegacy;
          capture = capture_of(device.api(), user);
        }
        if (capture.active) return false;
        check(capture.answer, "cudaStreamIsCapturing");
      }
      bool passed = true;
      for (const cudaStream_t user : block->users_) {
        PooledEvent event = device.sleeping_events().take();
        check(device.api().event_record(event.get(), user), "cudaEventRecord");
        passed = passed && device.api().event_query(event.get()) == CUDA_SUCCESS;
        block->used_.push_back(std::move(event));
      }
      if (passed) {
        block->complete();
      } else {
        device.frees().start();
        device.frees().post(std::move(block));
      }
    } catch (const CudaError& error) {
      device.fails_with(error.cuda_code());
    } catch (const std::exception&) {
      // Leaked.
    }
    return true;
  }

  // Frees the memory once the events have passed. Requires: the device's context is current.
  void complete() noexcept override {
    for (const PooledEvent& event : used_) {
      const cudaError_t answer = device_.api().event_synchronize(event.get());
      if (answer == cudaSuccess) continue;
      device_.fails_with(answer);
      return;  // leaked
    }
    used_.clear();
    device_.fails_with(device_.api().free_async(memory_, device_.allocation_stream()));
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
  void* memory_ = nullptr;
  std::mutex mutex_;
  std::vector<cudaStream_t> users_;
  std::vector<PooledEvent> used_;
};

// Blocks that wait for the end of a capture. Every allocation and free tries again.
std::mutex g_waiting_mutex;
DeviceBlock* g_waiting = nullptr;

void give_back_or_keep(DeviceBlock* given) noexcept {
  std::unique_ptr<DeviceBlock> block(given);
  if (DeviceBlock::give_back(block)) return;
  const std::lock_guard lock(g_waiting_mutex);
  block->next = g_waiting;
  g_waiting = block.release();
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
  const CheckedStream checked = engine.checked(stream, device, guard.callers());
  Loan loan = dense_like(like);
  TensorView& view = loan.view();
  view.device = Device(DeviceType::cuda, device.index());
  view.is_copied = false;
  if (like.is_empty()) return loan;
  give_back_waiting();
  try {
    std::unique_ptr<DeviceBlock, decltype(&give_back_or_keep)> block(
        new DeviceBlock(engine, device, static_cast<size_t>(like.nbytes()), checked),
        give_back_or_keep);
    if (!checked.ordered) block->wait_for_allocation();
    view.data = block->memory();
    loan.attach({block.release(), give_back});
  } catch (const CudaError& error) {
    device.fails_with(error.cuda_code());
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
