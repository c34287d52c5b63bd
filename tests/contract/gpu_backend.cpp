// SPDX-License-Identifier: Apache-2.0
// A real GPU as the contract's device, through a runtime of the test's own: the library's is inside
// the library. Without a GPU there is no backend, and the reason is the library's own.
//
// While a host function holds a stream, nothing may pin, unpin or free memory: CUDA may let that
// wait for the device, and the test that would let the stream go waits behind it. So what the tests
// need of such memory is there before, and what they free meanwhile is freed at the end. Nor may
// other streams have host functions: CUDA may run all of them on one thread.
#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <set>
#include <stdexcept>
#include <thread>

#include "backend.h"
#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/cuda/staging.h"

namespace dlbridge::contract {
namespace {

void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error));
}

cudaStream_t handle_of(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

// Pinned memory between the host and work in a stream: one stretch for all tests, of which each
// uses up some.
class TransitMemory {
 public:
  static TransitMemory& get() {
    static TransitMemory memory;
    return memory;
  }

  /// Null where no more is left. Good until clear().
  uint8_t* take(size_t bytes) {
    const size_t first = (used_ + 63) / 64 * 64;
    if (first > kBytes || bytes > kBytes - first) return nullptr;
    used_ = first + bytes;
    return static_cast<uint8_t*>(memory_) + first;
  }
  /// Requires: no work that uses any of it is left.
  void clear() { used_ = 0; }

 private:
  static constexpr size_t kBytes = size_t{16} << 20;

  TransitMemory() { check(cudaMallocHost(&memory_, kBytes), "cudaMallocHost"); }

  void* memory_ = nullptr;  // until the process ends
  size_t used_ = 0;
};

// The pool as it is before its first use, but with some small free blocks, enough for
// what is staged while a stream is held.
void prepare_pool() {
  cuda::trim_pinned();
  constexpr int64_t kBytes = int64_t{512} << 10;
  TensorView like;
  const int64_t one = 1;
  like.shape = &kBytes;
  like.strides = &one;
  like.ndim = 1;
  like.dtype = DType(TypeCode::uint, 8);
  like.device = Device(DeviceType::cpu);
  {
    std::vector<Loan> blocks;
    for (int i = 0; i < 16; ++i) blocks.push_back(cuda::pinned_empty(like));
  }
  const auto ready = [] { return cuda::pinned_stats().quarantined == 0; };
  for (int i = 0; i < 1000 && !ready(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

class GpuBackend final : public Backend {
 public:
  explicit GpuBackend(int devices) : devices_(devices) {
    for (int i = std::min(devices, 2) - 1; i >= 0; --i) {  // the first one stays current
      check(cudaSetDevice(i), "cudaSetDevice");
      check(cudaFree(nullptr), "cudaFree");
    }
    TransitMemory::get();
    prepare_pool();
  }
  ~GpuBackend() override {
    go();
    cudaDeviceSynchronize();
    for (void* memory : allocated_) cudaFree(memory);
    for (const cudaStream_t stream : streams_) cudaStreamDestroy(stream);
    TransitMemory::get().clear();
    cuda::set_pinned_limit(limit_);
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
    if (held_) return;  // at the end
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
    uint8_t* const transit = take_transit(bytes.size());
    std::memcpy(transit, bytes.data(), bytes.size());
    check(cudaMemcpyAsync(memory, transit, bytes.size(), cudaMemcpyDefault, handle_of(stream)),
          "cudaMemcpyAsync");
  }
  std::shared_ptr<const Bytes> enqueue_read(Stream stream, const void* memory,
                                            size_t bytes) override {
    uint8_t* const transit = take_transit(bytes);
    check(cudaMemcpyAsync(transit, memory, bytes, cudaMemcpyDefault, handle_of(stream)),
          "cudaMemcpyAsync");
    reads_.push_back({stream.handle, transit, bytes, std::make_shared<Bytes>()});
    return reads_.back().arrived;
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
    std::erase_if(reads_, [&](const Read& read) {
      if (read.stream != stream.handle) return false;
      read.arrived->assign(read.transit, read.transit + read.bytes);
      return true;
    });
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
  struct Read {
    void* stream;
    const uint8_t* transit;
    size_t bytes;
    std::shared_ptr<Bytes> arrived;
  };

  uint8_t* take_transit(size_t bytes) {
    uint8_t* memory = TransitMemory::get().take(bytes);
    if (memory == nullptr && !held_ && reads_.empty()) {  // everything so far can be waited for
      check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
      TransitMemory::get().clear();
      memory = TransitMemory::get().take(bytes);
    }
    if (memory == nullptr)
      throw std::runtime_error("the test uses more transit memory than there is");
    return memory;
  }

  int devices_;
  const size_t limit_ = cuda::pinned_stats().limit;
  std::set<void*> allocated_;
  std::vector<cudaStream_t> streams_;
  std::vector<Read> reads_;
  std::atomic<bool> held_{false};
};

}  // namespace

MadeBackend make_backend(uint64_t) {
  const cuda::Availability found = cuda::availability();
  if (!found.usable) return {nullptr, found.message};
  return {std::make_unique<GpuBackend>(found.device_count), ""};
}

}  // namespace dlbridge::contract
