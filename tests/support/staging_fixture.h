// SPDX-License-Identifier: Apache-2.0
// StagingTest: the staging functions on a simulated CUDA, with tensors that know what is in them.
//
// A test gets a simulator (another one by start() with a configuration of its own), tensors on its
// devices and on the host, and streams. When it ends, so does the engine, and it fails where
// anything was not in order: a report of the simulator, something not freed, a loan not
// released exactly once, the pool's figures not adding up, a context, capture mode or error left
// behind on the test's thread.
//
// Owns all memory of its tensors until then. Thread: the test's own, unless said otherwise.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cuda_sim/simulator.h"
#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/cuda/staging.h"
#include "errors.h"
#include "shaped.h"

namespace dlbridge::test {

/// Bytes without two neighbouring elements alike.
inline std::vector<uint8_t> pattern(size_t bytes, uint32_t seed) {
  std::vector<uint8_t> content(bytes);
  uint32_t state = seed * 2654435761u + 1;
  for (uint8_t& byte : content) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<uint8_t>(state >> 24);
  }
  return content;
}

/// How elements lie in a stretch of memory. Negative strides begin further back in it.
struct Layout {
  Layout(std::vector<int64_t> extents, DType type = kFloat32)
      : Layout(extents, row_major(extents), type) {}
  Layout(std::vector<int64_t> extents, std::vector<int64_t> stride_elements, DType type = kFloat32)
      : shape(std::move(extents)), strides(std::move(stride_elements)), dtype(type) {
    int64_t last = 0;
    for (size_t i = 0; i < shape.size(); ++i) {
      const int64_t reach = (shape[i] - 1) * strides[i];
      (reach < 0 ? first : last) += reach < 0 ? -reach : reach;
      empty |= shape[i] == 0;
    }
    span = empty ? 0 : static_cast<size_t>((first + last + 1) * dtype.itemsize());
  }

  /// The elements of `memory`, which holds `span` bytes, row-major.
  std::vector<uint8_t> gather(const uint8_t* memory) const {
    std::vector<uint8_t> elements;
    const auto size = static_cast<size_t>(dtype.itemsize());
    const auto walk = [&](auto&& self, size_t dim, int64_t at) -> void {
      const uint8_t* element = memory + at * static_cast<int64_t>(size);
      if (dim == shape.size()) {
        elements.insert(elements.end(), element, element + size);
      } else if (dim + 1 == shape.size() && strides[dim] == 1) {
        elements.insert(elements.end(), element, element + static_cast<size_t>(shape[dim]) * size);
      } else {
        for (int64_t i = 0; i < shape[dim]; ++i) self(self, dim + 1, at + i * strides[dim]);
      }
    };
    if (!empty) walk(walk, 0, first);
    return elements;
  }

  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  ///< in elements
  DType dtype;
  int64_t first = 0;  ///< where the first element is, in elements
  size_t span = 0;    ///< bytes
  bool empty = false;
};

/// A tensor over memory that the fixture owns.
class TestTensor {
 public:
  TestTensor(Layout layout, uint8_t* memory, Device device)
      : layout_(std::move(layout)), memory_(memory), device_(device) {}
  TestTensor(const TestTensor&) = delete;
  TestTensor& operator=(const TestTensor&) = delete;

  const Layout& layout() const { return layout_; }
  uint8_t* memory() const { return memory_; }
  size_t span() const { return layout_.span; }
  int64_t nbytes() const { return view().nbytes(); }

  TensorView view() const {
    TensorView view;
    view.data = memory_ + layout_.first * layout_.dtype.itemsize();
    view.shape = layout_.shape.data();
    view.strides = layout_.strides.data();
    view.ndim = static_cast<int32_t>(layout_.shape.size());
    view.dtype = layout_.dtype;
    view.device = device_;
    return view;
  }

  /// A loan whose release is counted.
  Loan acquire() {
    Loan loan;
    loan.describe(view());
    loan.attach({this, [](void* self) noexcept {
                   auto* tensor = static_cast<TestTensor*>(self);
                   if (tensor->on_release) tensor->on_release();
                   ++tensor->releases_;
                 }});
    ++acquired_;
    return loan;
  }
  int acquired() const { return acquired_; }
  int releases() const { return releases_; }

  /// Runs in each release, on whichever thread that is.
  std::function<void()> on_release;
  /// The memory was released.
  std::atomic<bool> freed{false};

 private:
  Layout layout_;
  uint8_t* memory_;
  Device device_;
  int acquired_ = 0;
  std::atomic<int> releases_{0};
};

class StagingTest : public testing::Test {
 protected:
  using Config = cuda_sim::Config;
  using Schedule = cuda_sim::Schedule;

  ~StagingTest() override {
    cuda::inject_cuda_api(nullptr);  // where a failed test left early
  }

  /// A simulator with this configuration from here on. Requires: nothing is in flight.
  cuda_sim::Simulator& start(const Config& config = {}) {
    if (sim_ != nullptr) finish();
    sim_ = std::make_unique<cuda_sim::Simulator>(config);
    cuda::inject_cuda_api(&sim_->api(), config.max_registration_bytes);
    return *sim_;
  }

  cuda_sim::Simulator& sim() { return *sim_; }

  void SetUp() override { start(); }
  void TearDown() override {
    if (sim_ != nullptr) finish();
  }

  // ---- tensors; all live until the test has ended

  /// On a device, filled with pattern `seed`.
  TestTensor& device(Layout layout, uint32_t seed = 1, int index = 1) {
    auto* memory =
        static_cast<uint8_t*>(sim().device_alloc(std::max<size_t>(layout.span, 1), index));
    TestTensor& tensor =
        device_tensors_.emplace_back(std::move(layout), memory, Device(DeviceType::cuda, index));
    fill(tensor, seed);
    return tensor;
  }

  TestTensor& managed(Layout layout, uint32_t seed = 1, int index = 1) {
    auto* memory = static_cast<uint8_t*>(sim().managed_alloc(layout.span, index));
    TestTensor& tensor = managed_tensors_.emplace_back(std::move(layout), memory,
                                                       Device(DeviceType::cuda_managed, index));
    fill(tensor, seed);
    return tensor;
  }

  /// Pageable host memory.
  TestTensor& host(Layout layout, uint32_t seed = 1) {
    TestTensor& tensor = host_tensor(std::move(layout), DeviceType::cpu);
    fill(tensor, seed);
    return tensor;
  }

  /// Host memory that the test has registered with CUDA.
  TestTensor& foreign_pinned(Layout layout, uint32_t seed = 1) {
    TestTensor& tensor = host_tensor(std::move(layout), DeviceType::cuda_host);
    fill(tensor, seed);
    const size_t pages = (tensor.span() + kPage - 1) / kPage * kPage;
    in_context(1, [&] {
      EXPECT_EQ(sim().api().host_register(tensor.memory(), pages, CU_MEMHOSTREGISTER_PORTABLE),
                CUDA_SUCCESS);
    });
    registered_.push_back(tensor.memory());
    return tensor;
  }

  /// The owner of `tensor` frees its memory when the loan is released, which is a report where work
  /// on it may still run.
  void free_on_release(TestTensor& tensor) {
    tensor.on_release = [this, &tensor] {
      tensor.freed = true;
      sim().device_free(tensor.memory());
    };
  }

  /// Behind the back of all streams.
  void fill(TestTensor& tensor, uint32_t seed) {
    const std::vector<uint8_t> bytes = pattern(tensor.span(), seed);
    if (is_device(tensor))
      sim().write(tensor.memory(), bytes);
    else
      std::copy(bytes.begin(), bytes.end(), tensor.memory());
  }

  /// The elements that fill(tensor, seed) would bring, row-major.
  static std::vector<uint8_t> elements_with(const TestTensor& tensor, uint32_t seed) {
    return tensor.layout().gather(pattern(tensor.span(), seed).data());
  }

  /// The elements that are there, row-major.
  std::vector<uint8_t> elements(const TestTensor& tensor) {
    if (!is_device(tensor)) {
      if (tensor.span() != 0) sim().host_read(tensor.memory(), tensor.span());
      return tensor.layout().gather(tensor.memory());
    }
    return tensor.layout().gather(sim().read(tensor.memory(), tensor.span()).data());
  }

  /// The elements of host memory, row-major; the host reads them now.
  std::vector<uint8_t> elements(const TensorView& view) {
    const Layout layout({view.shape, view.shape + view.ndim},
                        {view.strides, view.strides + view.ndim}, DType(view.dtype));
    const auto* memory = static_cast<const uint8_t*>(view.data) - layout.first * view.itemsize();
    if (layout.span != 0) sim().host_read(memory, layout.span);
    return layout.gather(memory);
  }
  std::vector<uint8_t> elements(const Loan& loan) { return elements(loan.view()); }

  /// A kernel on `stream` writes pattern `seed`.
  void produce(CUstream stream, TestTensor& tensor, uint32_t seed) {
    sim().enqueue_write(stream, tensor.memory(), pattern(tensor.span(), seed));
  }
  /// A kernel on `stream` reads all of it; empty until it has run.
  std::shared_ptr<std::vector<uint8_t>> consume(CUstream stream, const TestTensor& tensor) {
    return sim().enqueue_read(stream, tensor.memory(), tensor.span());
  }

  // ---- streams and threads

  /// Of the kind that frameworks make.
  CUstream stream(int index = 1, unsigned flags = CU_STREAM_NON_BLOCKING) {
    streams_.push_back(sim().make_stream(flags, index));
    return streams_.back();
  }
  /// Streams that the module has made and used.
  std::vector<CUstream> copy_stream_handles() {
    std::vector<CUstream> copy_streams = sim().used_streams();
    std::erase_if(copy_streams, [this](CUstream each) {
      return reinterpret_cast<uintptr_t>(each) <= 2 ||
             std::find(streams_.begin(), streams_.end(), each) != streams_.end();
    });
    return copy_streams;
  }
  /// Until dropped results are free. A busy machine delays the simulator's threads for longer than
  /// a call waits for a block.
  static void wait_for_fences() {
    while (cuda::pinned_stats().quarantined > 0) std::this_thread::yield();
  }
  static Stream on(CUstream handle, int index = 1) { return cuda::stream_of(index, handle); }
  static Stream numbered(intptr_t number, int index = 1) { return cuda::stream_of(index, number); }

  /// Runs `body` on a thread whose current device is `index` (-1: none) and waits for it.
  template <typename Body>
  void in_context(int index, Body&& body) {
    std::thread([&] {
      if (index >= 0) sim().use_device(index);
      body();
    }).join();
  }

  /// The test's own thread has this device current from here on.
  void use_device(int index) {
    sim().use_device(index);
    stack_ = sim().context_stack();
  }

  // ---- what a test with a dead device cannot keep

  /// Memory in a report is never freed, and loans are released at most once.
  void expect_losses() { losses_ = true; }

 private:
  static constexpr size_t kPage = 4096;

  struct Pages {
    explicit Pages(size_t bytes) : memory(new (std::align_val_t{kPage}) uint8_t[bytes]) {}
    Pages(const Pages&) = delete;
    Pages& operator=(const Pages&) = delete;
    ~Pages() { ::operator delete[](memory, std::align_val_t{kPage}); }
    uint8_t* memory;
  };

  static bool is_device(const TestTensor& tensor) {
    return Device(tensor.view().device).type() == DeviceType::cuda;
  }

  TestTensor& host_tensor(Layout layout, DeviceType type) {
    const size_t pages = (layout.span + kPage) / kPage * kPage;
    uint8_t* memory = pages_.emplace_back(pages).memory;
    return host_tensors_.emplace_back(std::move(layout), memory, Device(type));
  }

  void reset() {
    stack_.clear();
    streams_.clear();
    registered_.clear();
    device_tensors_.clear();
    managed_tensors_.clear();
    host_tensors_.clear();
    pages_.clear();
    losses_ = false;
    sim_.reset();
  }

  static void expect_stats_add_up() {
    try {
      const cuda::PinnedStats stats = cuda::pinned_stats();
      EXPECT_EQ(stats.registered,
                stats.free + stats.owned + stats.in_flight + stats.quarantined + stats.leaked);
    } catch (const Error&) {  // there is no engine, nor can there be one
    }
  }

  void finish() {
    sim_->clear_faults();
    sim_->go();
    for (const CUstream each : streams_) sim_->go_stream(each);
    for (const CUstream each : copy_stream_handles()) sim_->go_stream(each);
    expect_stats_add_up();
    EXPECT_EQ(sim_->context_stack(), stack_) << "the thread's stack of contexts was changed";
    if (!losses_) {  // a dead device does not take it back
      EXPECT_EQ(sim_->capture_mode(), CU_STREAM_CAPTURE_MODE_GLOBAL);
    }
    cuda::inject_cuda_api(nullptr);
    sim_->finish();
    in_context(1, [this] {
      for (void* memory : registered_) sim_->api().host_unregister(memory);
    });
    for (auto* tensors : {&device_tensors_, &managed_tensors_, &host_tensors_}) {
      for (const TestTensor& tensor : *tensors) {
        EXPECT_LE(tensor.releases(), tensor.acquired());
        if (!losses_) {
          EXPECT_EQ(tensor.releases(), tensor.acquired());
        }
      }
    }
    if (!losses_) {
      for (auto* tensors : {&device_tensors_, &managed_tensors_}) {
        for (const TestTensor& tensor : *tensors)
          if (!tensor.freed) sim_->device_free(tensor.memory());
      }
      EXPECT_TRUE(sim_->leaks().none()) << sim_->leaks().text();
    }
    EXPECT_EQ(sim_->complaint(), "");
    reset();
  }

  std::unique_ptr<cuda_sim::Simulator> sim_;
  std::vector<int> stack_;
  std::vector<CUstream> streams_;
  std::vector<void*> registered_;
  std::deque<Pages> pages_;
  std::deque<TestTensor> device_tensors_;
  std::deque<TestTensor> managed_tensors_;
  std::deque<TestTensor> host_tensors_;
  bool losses_ = false;
};

}  // namespace dlbridge::test
