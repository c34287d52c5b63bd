// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/cuda/device_memory.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "device/call.h"
#include "dlbridge/copy.h"
#include "dlbridge/layout.h"

namespace dlbridge::cuda {
namespace {

// The per-thread stream differs on the thread that frees; the legacy stream waits for all of them.
CUstream named(CUstream stream) noexcept {
  return stream == nullptr || stream == CU_STREAM_PER_THREAD ? CU_STREAM_LEGACY : stream;
}

// One piece of device memory, with the streams that have used it.
class DeviceBlock {
 public:
  // Allocates in the order of the call's stream, which may use the memory at once.
  DeviceBlock(const Call& call, size_t bytes)
      : engine_(call.engine), device_(call.device), device_index_(device_.index()) {
    const CudaApi& api = device_.api();
    const CUstream first = call.stream.ordered ? call.stream.handle : device_.allocation_stream();
    users_.push_back(named(first));
    const CUresult answer = api.malloc_async(&memory_, bytes, first);
    if (answer == CUDA_ERROR_OUT_OF_MEMORY) {
      throw Error(ErrorCode::out_of_memory, "device memory",
                  std::to_string(bytes) + " bytes do not fit into the memory of cuda:" +
                      std::to_string(device_index_) + ": drop tensors that are held there");
    }
    check(answer, "cuMemAllocAsync");
  }
  DeviceBlock(const DeviceBlock&) = delete;
  DeviceBlock& operator=(const DeviceBlock&) = delete;

  void* memory() const noexcept { return memory_; }

  // Waits for the allocation, for callers who order nothing.
  void wait_for_allocation() {
    check(device_.api().stream_synchronize(device_.allocation_stream()), "cuStreamSynchronize");
    users_.clear();
  }

  void used_by(Stream stream) {
    if (reinterpret_cast<intptr_t>(stream.handle) == kNoSync ||
        stream.device.device_id != device_index_)
      return;
    const CUstream user = named(static_cast<CUstream>(stream.handle));
    const std::lock_guard lock(mutex_);
    if (std::ranges::find(users_, user) == users_.end()) users_.push_back(user);
  }

  // Frees the memory when the streams that used it have run; nothing waits for that but a thread.
  // Keeps it for the next try if one of them is being captured. On failure the memory is leaked,
  // since work may still use it. The block is gone afterwards.
  static void give_back(DeviceBlock* given) noexcept {
    std::unique_ptr<DeviceBlock> block(given);
    DeviceContext& device = block->device_;
    if (Engine::existing() != &block->engine_ || !device.alive()) return;
    try {
      const CallGuard guard(device.api(), device.context());
      if (!block->record_users()) {
        const std::lock_guard lock(g_waiting_mutex);
        block->next_ = std::exchange(g_waiting, block.get());
        static_cast<void>(block.release());
      } else if (block->is_unused()) {
        block->free();
      } else {
        Waiter::Work work = device.frees().prepare([given] {
          given->free();
          delete given;
        });
        static_cast<void>(block.release());
        device.frees().post(std::move(work));
      }
    } catch (const CudaError& error) {
      device.fails_with(error.cuda_code());
    } catch (const std::exception&) {
      // Leaked.
    }
  }

  // Tries again to free the blocks that wait for the end of a capture.
  static void give_back_waiting() noexcept {
    if (Engine::existing() == nullptr) return;  // no lock in the child of a fork
    DeviceBlock* block = nullptr;
    {
      const std::lock_guard lock(g_waiting_mutex);
      block = std::exchange(g_waiting, nullptr);
    }
    while (block != nullptr) give_back(std::exchange(block, block->next_));
  }

 private:
  // Records what the streams that used it have to do. Returns false if one of them is being
  // captured.
  bool record_users() {
    used_.clear();
    for (CUstream& user : users_) {
      Capture capture = capture_of(device_.api(), user);
      if (!capture.active && capture.answer != CUDA_SUCCESS &&
          !device_.fails_with(capture.answer)) {
        // A stream that was destroyed before its tensor. The legacy stream stands for it.
        user = CU_STREAM_LEGACY;
        capture = capture_of(device_.api(), user);
      }
      if (capture.active) return false;
      check(capture.answer, "cuStreamIsCapturing");
      PooledEvent event = device_.events().take();
      check(device_.api().event_record(event.get(), user), "cuEventRecord");
      used_.push_back(std::move(event));
    }
    return true;
  }

  // Returns true if all that was recorded has been done.
  bool is_unused() const {
    return std::ranges::all_of(used_, [&](const PooledEvent& event) {
      return device_.api().event_query(event.get()) == CUDA_SUCCESS;
    });
  }

  // Frees the memory once the events have passed. Requires: the device's context is current.
  void free() noexcept {
    for (const PooledEvent& event : used_) {
      const CUresult answer = device_.api().event_synchronize(event.get());
      if (answer == CUDA_SUCCESS) continue;
      device_.fails_with(answer);
      return;  // leaked
    }
    used_.clear();
    device_.fails_with(device_.api().free_async(memory_, device_.allocation_stream()));
  }

  // Blocks that wait for the end of a capture. Every allocation and free tries again.
  static inline std::mutex g_waiting_mutex;
  static inline DeviceBlock* g_waiting = nullptr;

  Engine& engine_;
  DeviceContext& device_;
  const int device_index_;  // valid after the engine's end
  void* memory_ = nullptr;
  std::mutex mutex_;
  std::vector<CUstream> users_;
  std::vector<PooledEvent> used_;
  DeviceBlock* next_ = nullptr;
};

void release(void* context) noexcept {
  DeviceBlock::give_back_waiting();
  DeviceBlock::give_back(static_cast<DeviceBlock*>(context));
}

}  // namespace

Loan device_empty(const TensorView& like, Stream stream) {
  Call call(Engine::get().started(stream.device.device_id), stream);
  Loan loan = dense_like(like);
  TensorView& view = loan.view();
  view.device = Device(DeviceType::cuda, call.device.index());
  view.is_copied = false;
  if (like.is_empty()) return loan;
  DeviceBlock::give_back_waiting();
  call.run([&] {
    std::unique_ptr<DeviceBlock, decltype(&DeviceBlock::give_back)> block(
        new DeviceBlock(call, static_cast<size_t>(like.nbytes())), DeviceBlock::give_back);
    if (!call.stream.ordered) block->wait_for_allocation();
    view.data = block->memory();
    loan.attach({block.release(), release});
  });
  return loan;
}

int32_t device_of_address(const void* address) {
  const PointerAttributes found = Engine::get().find(address);
  if (found.kind != MemoryKind::device && found.kind != MemoryKind::managed) {
    throw Error(ErrorCode::invalid_device, "data",
                "data is not memory of a CUDA device: fix the producer");
  }
  return found.device;
}

bool shares_managed_memory(int32_t device_id) {
  Engine& engine = Engine::get();
  engine.require_index(device_id);
  int concurrent = 0;
  check(engine.api().device_get_attribute(&concurrent,
                                          CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, device_id),
        "cuDeviceGetAttribute");
  return concurrent != 0;
}

bool record_device_stream(const Deleter& deleter, Stream stream) {
  if (deleter.release != release) return false;
  static_cast<DeviceBlock*>(deleter.context)->used_by(stream);
  return true;
}

}  // namespace dlbridge::cuda
