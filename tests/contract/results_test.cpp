// SPDX-License-Identifier: Apache-2.0
// Memory that the library makes: results and pinned_empty, their layout, where they lie, how long
// they live; batches of them.
#include <algorithm>
#include <numeric>

#include "contract_test.h"
#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/managed_tensor.h"
#include "errors.h"
#include "memory.h"
#include "producer.h"

namespace dlbridge::contract {
namespace {

class StagedResults : public Contract {
 protected:
  // A tensor on the device that lives as long as the test.
  const OnDevice& on_device(const Spec& spec) {
    placements_.push_back(std::make_unique<Placement>(spec));
    const Placement& placement = *placements_.back();
    tensors_.push_back(
        std::make_unique<OnDevice>(backend(), placement, pattern(placement.block_bytes(), 1)));
    return *tensors_.back();
  }
  const OnDevice& bytes_on_device(int64_t count) {
    return on_device({.shape = {count}, .strides = {1}, .dtype = test::kUint8});
  }

  Bytes twin(size_t index) const { return elements(*placements_[index]); }
  static Bytes elements(const Placement& placement) {
    Bytes block = pattern(placement.block_bytes(), 1);
    return elements_of(placement.view(block.data()));
  }

  void TearDown() override {
    tensors_.clear();
    Contract::TearDown();
  }

 private:
  std::vector<std::unique_ptr<Placement>> placements_;
  std::vector<std::unique_ptr<OnDevice>> tensors_;
};

Dims strides_of(const Loan& loan) {
  return {loan.view().strides, loan.view().strides + loan.view().ndim};
}

TEST_F(StagedResults, KeepDimensionOrder) {
  for (const Dims& shape : {Dims{5, 6, 7}, Dims{3, 4, 2, 5}}) {
    Dims order(shape.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    do {
      SCOPED_TRACE(testing::PrintToString(order));
      for (const int64_t step : {1, 3}) {
        const TensorView source =
            on_device({.shape = shape, .strides = dense(shape, order, 0, step)}).view();
        const Loan kept = cuda::stage_to_host(source, stream());
        EXPECT_EQ(strides_of(kept), dense(shape, order));
        const Loan row = cuda::stage_to_host(source, stream(), {.row_major = true});
        EXPECT_EQ(strides_of(row), row_major(shape));
      }
    } while (std::next_permutation(order.begin(), order.end()));
  }
}

TEST_F(StagedResults, ComeFromThePinnedPool) {
  const TensorView source = bytes_on_device(100000).view();
  cuda::set_pinned_limit(size_t{64} << 20);
  const size_t before = cuda::pinned_stats().owned;
  Loan result = cuda::stage_to_host(source, stream());
  EXPECT_GE(cuda::pinned_stats().owned, before + 100000);
  Loan later = cuda::stage_to_host_async(test::loan_of(source), stream()).result();
  EXPECT_GE(cuda::pinned_stats().owned, before + 200000);
  result.reset();
  later.reset();
  EXPECT_TRUE(comes_true([&] { return cuda::pinned_stats().owned == before; }));
  EXPECT_LE(cuda::pinned_stats().registered, cuda::pinned_stats().limit);
}

TEST_F(StagedResults, AreReused) {
  constexpr size_t kBytes = size_t{3} << 20;
  const TensorView source = bytes_on_device(kBytes).view();
  cuda::set_pinned_limit(size_t{64} << 20);
  for (int i = 0; i < 40; ++i) {  // twice what the limit allows
    const size_t owned = cuda::pinned_stats().owned;
    const Loan result = cuda::stage_to_host(source, stream());
    ASSERT_GE(cuda::pinned_stats().owned, owned + kBytes) << "result " << i << " is pageable";
  }
  EXPECT_LE(cuda::pinned_stats().registered, size_t{64} << 20);
}

TEST_F(StagedResults, ArePageableBeyondTheLimit) {
  constexpr int64_t kBytes = 5 << 20;
  const TensorView source = bytes_on_device(kBytes).view();
  const TensorView strided =
      on_device({.shape = {1000, 1300}, .strides = {1, 1000}, .dtype = test::kFloat32}).view();
  const TensorView broadcast =
      on_device({.shape = {2, kBytes}, .strides = {0, 1}, .dtype = test::kUint8}).view();
  const TensorView views[] = {source, strided, broadcast};
  cuda::set_pinned_limit(size_t{2} << 20);
  for (const bool async : {false, true}) {
    SCOPED_TRACE(async);
    for (size_t i = 0; i < std::size(views); ++i) {
      SCOPED_TRACE(i);
      const TensorView& view = views[i];
      const size_t owned = cuda::pinned_stats().owned;
      const cuda::StageOptions options{.row_major = true};
      const Loan result =
          async ? cuda::stage_to_host_async(test::loan_of(view), stream(), options).result()
                : cuda::stage_to_host(view, stream(), options);
      EXPECT_EQ(cuda::pinned_stats().owned, owned);
      expect_fresh(result.view(), view, true);
      EXPECT_TRUE(elements_of(result.view()) == twin(i));
    }
  }
  EXPECT_LE(cuda::pinned_stats().registered, size_t{2} << 20);
}

// Not even a ring: what the driver does with ordinary memory has to be right as well.
TEST_F(StagedResults, NeedNoPinnedMemory) {
  constexpr int64_t kBytes = 5 << 20;
  const TensorView device = bytes_on_device(kBytes).view();
  const Bytes sent = pattern(kBytes, 7);
  cuda::set_pinned_limit(0);
  for (const bool async : {false, true}) {
    SCOPED_TRACE(async);
    Bytes memory(kBytes, kPoison);
    Bytes source = sent;
    const auto on_host = [&](Bytes& bytes) {
      TensorView view = device;
      view.device = Device(DeviceType::cpu);
      view.data = bytes.data();
      return view;
    };
    test::ReleaseCounter released;
    const auto acquired = [&](const TensorView& view) { return test::loan_of(view, released); };
    const Loan before = async ? cuda::stage_to_host_async(acquired(device), stream()).result()
                              : cuda::stage_to_host(device, stream());
    EXPECT_TRUE(elements_of(before.view()) == (async ? sent : twin(0)));
    if (async) {
      std::reverse(source.begin(), source.end());
      cuda::Future future =
          cuda::stage_async(acquired(on_host(source)), acquired(device), stream());
      const Bytes expected = source;
      std::fill(source.begin(), source.end(), kPoison);  // it has been read
      future = cuda::stage_async(acquired(device), acquired(on_host(memory)), stream());
      EXPECT_TRUE(future.wait(60));
      EXPECT_TRUE(memory == expected);
      future = {};
      EXPECT_TRUE(comes_true([&] { return released.count() == 5; }));
    } else {
      cuda::stage(on_host(source), device, stream());
      std::fill(source.begin(), source.end(), kPoison);  // it has been read
      cuda::stage(device, on_host(memory), stream());
      EXPECT_TRUE(memory == sent);
    }
  }
  EXPECT_EQ(cuda::pinned_stats().registered, 0u);
}

TEST_F(StagedResults, OutliveTheirSource) {
  const Loan result =
      cuda::stage_to_host_async(test::loan_of(bytes_on_device(1000).view()), stream()).result();
  TearDown();
  EXPECT_EQ(elements_of(result.view()), twin(0));
}

TEST_F(StagedResults, HonourByteOffset) {
  const OnDevice& memory = bytes_on_device(4096);
  test::VersionedProducer producer;
  producer.set_layout({10, 7}, {1, 20});
  producer.tensor().data = memory.view().data;
  producer.tensor().device = gpu();
  producer.tensor().byte_offset = 100;
  Loan source;
  describe_managed(producer.get(), source);
  const Loan result = cuda::stage_to_host(source.view(), stream());
  Bytes block = twin(0);
  TensorView expected = source.view();
  expected.device = Device(DeviceType::cpu);
  expected.data = block.data() + 100;
  EXPECT_EQ(elements_of(result.view()), elements_of(expected));
}

TEST_F(StagedResults, OfManagedMemoryMatch) {
  void* memory = backend().allocate_managed(4096);
  const Bytes content = pattern(4096, 3);
  backend().write(memory, content);
  TensorView source = bytes_on_device(4096).view();
  source.data = memory;
  source.device = Device(DeviceType::cuda_managed, gpu().id());
  {
    const Loan result = cuda::stage_to_host(source, stream());
    EXPECT_EQ(elements_of(result.view()), content);
  }
  Bytes sent = pattern(4096, 4);
  TensorView host = source;
  host.device = Device(DeviceType::cpu);
  host.data = sent.data();
  cuda::stage(host, source, stream());
  const auto after = backend().enqueue_read(stream(), memory, sent.size());
  backend().synchronize(stream());
  EXPECT_EQ(*after, sent);
}

// ---- Batches

TEST_F(StagedResults, OfBatchAreIndependent) {
  std::vector<TensorView> sources;
  for (int64_t i = 0; i < 100; ++i) {
    sources.push_back(
        on_device({.shape = {i % 7, i}, .strides = {1, 9}, .dtype = test::kInt8}).view());
  }
  std::vector<Loan> results = cuda::stage_to_host(sources, stream());
  ASSERT_EQ(results.size(), sources.size());
  for (size_t i = 0; i < results.size(); ++i) expect_fresh(results[i].view(), sources[i], false);
  for (size_t i = 0; i < results.size(); i += 2) {
    EXPECT_EQ(elements_of(results[i].view()), twin(i)) << i;
    results[i].reset();
  }
  for (size_t i = 1; i < results.size(); i += 2)
    EXPECT_EQ(elements_of(results[i].view()), twin(i)) << i;
}

TEST_F(StagedResults, OfBatchIgnoreOrder) {
  std::vector<TensorView> sources{
      on_device({.shape = {2}, .strides = {3}, .dtype = test::kInt8}).view(),
      on_device({.shape = {700, 900}, .strides = {1, 701}, .dtype = test::kFloat64}).view(),
      on_device({.shape = {5, 6}, .strides = {1, 5}, .dtype = DType(TypeCode::uint, 64, 100)})
          .view(),
      on_device({.shape = {3, 5}, .strides = {0, 1}, .dtype = test::kInt32}).view()};
  for (int round = 0; round < 2; ++round) {
    const std::vector<Loan> results = cuda::stage_to_host(sources, stream(), {.row_major = true});
    for (size_t i = 0; i < results.size(); ++i) {
      SCOPED_TRACE(i);
      const size_t which = round == 0 ? i : sources.size() - 1 - i;
      expect_fresh(results[i].view(), sources[i], true);
      EXPECT_EQ(elements_of(results[i].view()), twin(which));
    }
    std::ranges::reverse(sources);
  }
}

TEST_F(StagedResults, OfEmptyBatchNeedNoDevice) {
  const test::Shaped empty({0, 4}, {-3, 0}, test::kFloat32, nullptr);
  TensorView view = empty.view();
  view.device = gpu();
  const TensorView views[] = {view, view};
  EXPECT_TRUE(cuda::stage_to_host(std::span<const TensorView>(), stream()).empty());
  const std::vector<Loan> results = cuda::stage_to_host(views, stream());
  ASSERT_EQ(results.size(), 2u);
  for (const Loan& result : results) expect_fresh(result.view(), view, true);

  test::ReleaseCounter released;
  Loan loans[] = {test::loan_of(view, released), test::loan_of(view, released)};
  const cuda::Future future = cuda::stage_to_host_async(loans, stream());
  EXPECT_TRUE(future.done());
  EXPECT_EQ(released.count(), 2);
  ASSERT_EQ(future.size(), 2u);
  for (size_t i = 0; i < 2; ++i) expect_fresh(future.result(i).view(), view, true);
  cuda::stage(std::span<const TensorView>(), std::span<const TensorView>(), stream());
}

// ---- pinned_empty

TEST_F(StagedResults, PinnedEmptyIsDenseAndWritable) {
  for (const LayoutPair& pair : layout_pairs()) {
    SCOPED_TRACE(pair.name);
    const test::Shaped like(pair.shape, pair.source);
    const size_t owned = cuda::pinned_stats().owned;
    const Loan made = cuda::pinned_empty(like.view());
    TensorView as_result = made.view();
    as_result.is_copied = true;
    expect_fresh(as_result, like.view(), false);
    EXPECT_FALSE(made.view().is_copied);
    if (made.view().is_empty()) continue;
    EXPECT_GE(cuda::pinned_stats().owned, owned + static_cast<size_t>(made.view().nbytes()));
    std::fill_n(static_cast<uint8_t*>(made.view().data), made.view().nbytes(), uint8_t{1});
  }
}

TEST_F(StagedResults, PinnedEmptyHonoursLimit) {
  cuda::set_pinned_limit(size_t{2} << 20);
  const test::Shaped like({3 << 20}, test::kUint8);
  const auto error = test::error_of([&] { return cuda::pinned_empty(like.view()); });
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code(), ErrorCode::out_of_memory);
  EXPECT_NE(std::string(error->what()).find("set_pinned_limit"), std::string::npos);
}

}  // namespace
}  // namespace dlbridge::contract
