// SPDX-License-Identifier: Apache-2.0
// The simulator as the contract's device: injected into the library, lazy, so that whatever is used
// before it is waited for is not there yet.
#include <algorithm>
#include <iterator>

#include "backend.h"
#include "cuda_sim/simulator.h"
#include "dlbridge/cuda/staging.h"

namespace dlbridge::contract {
namespace {

CUstream handle_of(Stream stream) { return static_cast<CUstream>(stream.handle); }

class SimBackend final : public Backend {
 public:
  explicit SimBackend(uint64_t seed) : sim_(config(seed)) {
    sim_.use_device(1);  // the numbered streams of a thread are those of its current device
    cuda::inject_cuda_api(&sim_.api());
  }
  ~SimBackend() override {
    cuda::inject_cuda_api(nullptr);
    sim_.use_no_device();
  }

  int32_t device() const override { return 1; }
  int32_t other_device() const override { return 0; }

  void* allocate(size_t bytes, int32_t device) override {
    return sim_.device_alloc(std::max<size_t>(bytes, 1), device);
  }
  void* allocate_managed(size_t bytes) override { return sim_.managed_alloc(bytes, 1); }
  void free(void* memory) override { sim_.device_free(memory); }
  void write(void* memory, const Bytes& bytes) override { sim_.write(memory, bytes); }
  Bytes read(const void* memory, size_t bytes) override { return sim_.read(memory, bytes); }

  Stream make_stream() override {
    return cuda::stream_of(1, sim_.make_stream(CU_STREAM_NON_BLOCKING, 1));
  }
  void enqueue_write(Stream stream, void* memory, Bytes bytes) override {
    sim_.enqueue_write(handle_of(stream), memory, std::move(bytes));
  }
  std::shared_ptr<const Bytes> enqueue_read(Stream stream, const void* memory,
                                            size_t bytes) override {
    return sim_.enqueue_read(handle_of(stream), memory, bytes);
  }
  void hold(Stream stream) override {
    held_ = handle_of(stream);
    sim_.hold_stream(held_);
  }
  void go() override { sim_.go_stream(held_); }
  void synchronize(Stream stream) override { sim_.synchronize(handle_of(stream)); }
  void host_reads(const void* memory, size_t bytes) override { sim_.host_read(memory, bytes); }

  std::string end() override {
    std::string all;
    if (sim_.context_stack() != std::vector{1}) all += "the thread's contexts were changed\n";
    cuda::inject_cuda_api(nullptr);
    sim_.finish();
    if (!sim_.leaks().none()) all += "left behind: " + sim_.leaks().text() + "\n";
    return all + sim_.complaint();
  }

 private:
  static cuda_sim::Config config(uint64_t seed) {
    constexpr cuda_sim::Schedule kSchedules[] = {
        cuda_sim::Schedule::lazy, cuda_sim::Schedule::random, cuda_sim::Schedule::eager};
    cuda_sim::Config config;
    config.schedule = kSchedules[seed % std::size(kSchedules)];
    config.seed = seed + 1;
    config.reuse_addresses = seed % 2 == 1;
    config.active = {0, 1};
    return config;
  }

  cuda_sim::Simulator sim_;
  CUstream held_ = nullptr;
};

}  // namespace

MadeBackend make_backend(uint64_t seed) { return {std::make_unique<SimBackend>(seed), ""}; }

}  // namespace dlbridge::contract
