// A real GPU as the contract's device, through a runtime of the test's own: the library's is inside
// the library. Without a GPU there is no backend, and the reason is the library's own.
#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <set>
#include <stdexcept>
#include <thread>

#include "backend.h"
#include "dlbridge/staging.h"

namespace dlbridge::contract {
namespace {

void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error));
}

cudaStream_t handle_of(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

// Pinned memory between the host and work in a stream.
struct Transit {
  explicit Transit(size_t size) : bytes(size) {
    check(cudaMallocHost(&memory, std::max<size_t>(size, 1)), "cudaMallocHost");
  }
  Transit(const Transit&) = delete;
  Transit& operator=(const Transit&) = delete;
  ~Transit() { cudaFreeHost(memory); }

  void* memory = nullptr;
  size_t bytes;
  std::shared_ptr<Bytes> arrived;
};

class GpuBackend final : public Backend {
 public:
  explicit GpuBackend(int devices) : devices_(devices) {
    for (int i = std::min(devices, 2) - 1; i >= 0; --i) {  // the first one stays current
      check(cudaSetDevice(i), "cudaSetDevice");
      check(cudaFree(nullptr), "cudaFree");
    }
  }
  ~GpuBackend() override {
    go();
    cudaDeviceSynchronize();
    for (void* memory : allocated_) cudaFree(memory);
    for (const cudaStream_t stream : streams_) cudaStreamDestroy(stream);
  }

  int32_t device() const override { return 0; }
  int32_t other_device() const override { return devices_ > 1 ? 1 : -1; }

  void* allocate(size_t bytes, int32_t device) override {
    void* memory = nullptr;
    check(cudaSetDevice(device), "cudaSetDevice");
    check(cudaMalloc(&memory, std::max<size_t>(bytes, 1)), "cudaMalloc");
    check(cudaSetDevice(0), "cudaSetDevice");
    allocated_.insert(memory);
    return memory;
  }
  void* allocate_managed(size_t bytes) override {
    void* memory = nullptr;
    check(cudaMallocManaged(&memory, bytes), "cudaMallocManaged");
    allocated_.insert(memory);
    return memory;
  }
  void free(void* memory) override {
    allocated_.erase(memory);
    check(cudaFree(memory), "cudaFree");
  }
  void write(void* memory, const Bytes& bytes) override {
    check(cudaMemcpy(memory, bytes.data(), bytes.size(), cudaMemcpyDefault), "cudaMemcpy");
  }
  Bytes read(const void* memory, size_t bytes) override {
    Bytes found(bytes);
    check(cudaMemcpy(found.data(), memory, bytes, cudaMemcpyDefault), "cudaMemcpy");
    return found;
  }

  Stream make_stream() override {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    streams_.push_back(stream);
    return cuda::stream_of(0, stream);
  }
  void enqueue_write(Stream stream, void* memory, Bytes bytes) override {
    Transit& transit = transits_.emplace_back(bytes.size());
    std::memcpy(transit.memory, bytes.data(), bytes.size());
    check(
        cudaMemcpyAsync(memory, transit.memory, bytes.size(), cudaMemcpyDefault, handle_of(stream)),
        "cudaMemcpyAsync");
  }
  std::shared_ptr<const Bytes> enqueue_read(Stream stream, const void* memory,
                                            size_t bytes) override {
    Transit& transit = transits_.emplace_back(bytes);
    transit.arrived = std::make_shared<Bytes>();
    check(cudaMemcpyAsync(transit.memory, memory, bytes, cudaMemcpyDefault, handle_of(stream)),
          "cudaMemcpyAsync");
    const auto arrive = [](void* context) {
      auto* self = static_cast<Transit*>(context);
      const auto* first = static_cast<const uint8_t*>(self->memory);
      self->arrived->assign(first, first + self->bytes);
    };
    check(cudaLaunchHostFunc(handle_of(stream), arrive, &transit), "cudaLaunchHostFunc");
    return transit.arrived;
  }
  void hold(Stream stream) override {
    held_ = true;
    const auto wait = [](void* context) {
      auto* held = static_cast<std::atomic<bool>*>(context);
      while (*held) std::this_thread::sleep_for(std::chrono::microseconds(50));
    };
    check(cudaLaunchHostFunc(handle_of(stream), wait, &held_), "cudaLaunchHostFunc");
  }
  void go() override { held_ = false; }
  void synchronize(Stream stream) override {
    check(cudaStreamSynchronize(handle_of(stream)), "cudaStreamSynchronize");
  }
  void host_reads(const void*, size_t) override {}

  std::string end() override {
    go();
    if (!cuda::drain(10)) return "copies of the library are still in flight after ten seconds";
    const cudaError_t ended = cudaDeviceSynchronize();
    if (ended != cudaSuccess) return cudaGetErrorString(ended);
    const cudaError_t left = cudaGetLastError();
    return left == cudaSuccess ? "" : std::string("an error left: ") + cudaGetErrorString(left);
  }

 private:
  int devices_;
  std::set<void*> allocated_;
  std::vector<cudaStream_t> streams_;
  std::deque<Transit> transits_;
  std::atomic<bool> held_{false};
};

}  // namespace

MadeBackend make_backend(uint64_t) {
  const cuda::Availability found = cuda::availability();
  if (!found.usable) return {nullptr, found.message};
  return {std::make_unique<GpuBackend>(found.device_count), ""};
}

}  // namespace dlbridge::contract
