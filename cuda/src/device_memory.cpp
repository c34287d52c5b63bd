#include "dlbridge/device_memory.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda_error.h"
#include "dlbridge/layout.h"
#include "guards.h"
#include "operation.h"
#include "results.h"

namespace dlbridge::cuda {
namespace {

// One piece of device memory, with the streams that have used it.
class DeviceBlock {
 public:
  DeviceBlock(Engine& engine, DeviceContext& device, size_t bytes)
      : engine_(engine), device_(device), lane_(device.lane_for(nullptr).lane().copies()) {
    const cudaError_t answer = device.api().malloc_async(&memory_, bytes, lane_);
    if (answer == cudaErrorMemoryAllocation) {
      throw Error(ErrorCode::out_of_memory, "device memory",
                  std::to_string(bytes) + " bytes do not fit into the memory of cuda:" +
                      std::to_string(device.index()) + ": drop tensors that are held there");
    }
    device.note(answer);
    check(answer, "cudaMallocAsync");
  }
  DeviceBlock(const DeviceBlock&) = delete;
  DeviceBlock& operator=(const DeviceBlock&) = delete;

  // In stream order: it waits for nobody. Where that fails the memory is leaked, since work that
  // uses it may still be under way.
  ~DeviceBlock() {
    if (Engine::existing() != &engine_ || !device_.alive()) return;
    try {
      const CallGuard guard(device_.api(), device_.context());
      for (const cudaStream_t user : users_) lane_waits_for(user);
      const cudaError_t answer = device_.api().free_async(memory_, lane_);
      device_.note(answer);
    } catch (const std::exception&) {
      // Leaked.
    }
  }

  void* memory() const noexcept { return memory_; }
  int device_index() const noexcept { return device_.index(); }

  // The allocation stands in the order of the lane; whoever uses the memory comes behind.
  void show_to(const CheckedStream& stream) {
    const CudaApi& api = device_.api();
    if (!stream.edges) return check(api.stream_synchronize(lane_), "cudaStreamSynchronize");
    const PooledEvent there = device_.events().take();
    check(api.event_record(there.get(), lane_), "cudaEventRecord");
    check(api.stream_wait_event(stream.handle, there.get(), 0), "cudaStreamWaitEvent");
    used_by(stream.handle);
  }

  // The per-thread stream is another one on the thread that gives back; the legacy stream waits for
  // all of its kind.
  void used_by(cudaStream_t stream) {
    if (stream == cudaStreamPerThread) stream = cudaStreamLegacy;
    const std::lock_guard lock(mutex_);
    if (std::find(users_.begin(), users_.end(), stream) == users_.end()) users_.push_back(stream);
  }

 private:
  void lane_waits_for(cudaStream_t user) {
    const CudaApi& api = device_.api();
    const PooledEvent used = device_.events().take();
    check(api.event_record(used.get(), user), "cudaEventRecord");
    check(api.stream_wait_event(lane_, used.get(), 0), "cudaStreamWaitEvent");
  }

  Engine& engine_;
  DeviceContext& device_;
  cudaStream_t lane_;
  void* memory_ = nullptr;
  std::mutex mutex_;
  std::vector<cudaStream_t> users_;
};

void give_back(void* context) noexcept { delete static_cast<DeviceBlock*>(context); }

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
  auto block = std::make_unique<DeviceBlock>(engine, device, static_cast<size_t>(like.nbytes()));
  block->show_to(checked);
  view.data = block->memory();
  loan.attach({block.release(), give_back});
  return loan;
}

int32_t device_of_address(const void* address) {
  Engine& engine = Engine::get();
  // Without a context CUDA would make one on the first device.
  const CallGuard guard(engine.api(), engine.any_context());
  cudaPointerAttributes found{};
  const cudaError_t answer = engine.api().pointer_get_attributes(&found, address);
  if (answer != cudaSuccess ||
      (found.type != cudaMemoryTypeDevice && found.type != cudaMemoryTypeManaged)) {
    throw Error(ErrorCode::invalid_device, "data",
                "data is not memory of a CUDA device: mend the producer");
  }
  return found.device;
}

bool shares_managed_memory(int32_t device_id) {
  Engine& engine = Engine::get();
  int concurrent = 0;
  check(
      engine.api().device_get_attribute(&concurrent, cudaDevAttrConcurrentManagedAccess, device_id),
      "cudaDeviceGetAttribute");
  return concurrent != 0;
}

bool record_device_stream(const Owner& owner, Stream stream) {
  if (owner.release != give_back) return false;
  auto* block = static_cast<DeviceBlock*>(owner.context);
  const auto number = reinterpret_cast<intptr_t>(stream.handle);
  if (number == kNoEdges || stream.device.device_id != block->device_index()) return true;
  block->used_by(static_cast<cudaStream_t>(stream.handle));
  return true;
}

}  // namespace dlbridge::cuda
