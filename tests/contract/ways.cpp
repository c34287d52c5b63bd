// SPDX-License-Identifier: Apache-2.0
#include "ways.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>

#include "dlbridge/copy.h"
#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/cuda/staging.h"
#include "memory.h"

namespace dlbridge::contract {
namespace {

using cuda::Future;
using test::ReleaseCounter;

constexpr uint8_t kOverwritten = 0xEE;

Stream no_sync(Stream stream) { return cuda::stream_of(stream.device.device_id, cuda::kNoSync); }

bool has_edges(Stream stream) { return stream.handle != no_sync(stream).handle; }

// A block of host memory, poisoned; pinned by the library where asked.
class HostMemory {
 public:
  HostMemory(size_t bytes, bool pinned) {
    if (!pinned) {
      block_.emplace(bytes);
      bytes_ = block_->bytes();
      return;
    }
    const test::Shaped like({static_cast<int64_t>(bytes)}, test::kUint8);
    loan_ = cuda::pinned_empty(like.view());
    bytes_ = {static_cast<uint8_t*>(loan_.view().data), bytes};
    std::ranges::fill(bytes_, kPoison);
  }

  std::span<uint8_t> bytes() const { return bytes_; }
  void assign(const Bytes& content) { std::ranges::copy(content, bytes_.begin()); }

 private:
  std::optional<Block> block_;
  Loan loan_;
  std::span<uint8_t> bytes_;
};

// A block that a placement would have after the copy.
Bytes copied(const Placement& from, Bytes source, const Placement& to) {
  Bytes target(to.block_bytes(), kPoison);
  const TensorView source_view = from.view(source.data());
  if (!source_view.is_empty()) copy_host(source_view, to.view(target.data()));
  return target;
}

// As text: where two blocks differ first, rather than megabytes of them.
testing::AssertionResult same(std::span<const uint8_t> found, std::span<const uint8_t> expected) {
  if (found.size() != expected.size()) {
    return testing::AssertionFailure() << found.size() << " bytes, expected " << expected.size();
  }
  const auto [at, other] = std::ranges::mismatch(found, expected);
  if (at == found.end()) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << "byte " << at - found.begin() << " of " << found.size() << " is "
         << static_cast<int>(*at) << ", expected " << static_cast<int>(*other);
}

// The bytes between the guards, so that a host access is reported.
void host_reads(Backend& backend, std::span<const uint8_t> bytes) {
  if (!bytes.empty()) backend.host_reads(bytes.data(), bytes.size());
}

void host_reads(Backend& backend, const TensorView& dense) {
  if (!dense.is_empty()) backend.host_reads(dense.data, static_cast<size_t>(dense.nbytes()));
}

class HostCheck {
 public:
  HostCheck(Backend& backend, const Spec& source, const Spec& target, Stream stream)
      : backend_(backend),
        from_(source),
        to_(target),
        stream_(stream),
        content_(pattern(from_.block_bytes(), 1)),
        device_(backend, from_, content_) {}

  void run(const Way& way) {
    switch (way.call) {
      case Way::into:
        return way.has(Way::async) ? into_async(way.has(Way::pinned)) : into(way.has(Way::pinned));
      case Way::fresh:
        if (way.has(Way::async)) return fresh_async(way.has(Way::row_major));
        return expect_result(
            cuda::stage_to_host(source(), stream_, {.row_major = way.has(Way::row_major)}),
            way.has(Way::row_major));
      case Way::batch:
        return batch(way.has(Way::async));
    }
  }

  void expect_source_untouched() const { EXPECT_TRUE(same(device_.read(), content_)); }

 private:
  TensorView source() const { return device_.view(); }

  void into(bool pinned) {
    HostMemory host(to_.block_bytes(), pinned);
    cuda::stage(source(), to_.view(host.bytes().data()), stream_);
    host_reads(backend_, host.bytes());
    EXPECT_TRUE(same(host.bytes(), copied(from_, content_, to_)));
  }

  void into_async(bool pinned) {
    HostMemory host(to_.block_bytes(), pinned);
    ReleaseCounter source_released;
    ReleaseCounter out_released;
    Loan source_loan = test::loan_of(source(), source_released);
    Loan out_loan = test::loan_of(to_.view(host.bytes().data()), out_released);
    {
      const Future future = cuda::stage_async(std::move(source_loan), std::move(out_loan), stream_);
      EXPECT_FALSE(source_loan.owns_memory());
      EXPECT_FALSE(out_loan.owns_memory());
      EXPECT_EQ(future.size(), 1u);
      const Loan result = future.result();
      EXPECT_TRUE(future.done());
      EXPECT_EQ(result.view().data, to_.view(host.bytes().data()).data);
      EXPECT_TRUE(std::ranges::equal(result.view().extents(), source().extents()));
      EXPECT_EQ(source_released.count(), 1);
      EXPECT_EQ(out_released.count(), 0);
      host_reads(backend_, host.bytes());
      EXPECT_TRUE(same(host.bytes(), copied(from_, content_, to_)));
    }
    EXPECT_EQ(source_released.count(), 1);
    EXPECT_TRUE(comes_true([&] { return out_released.count() == 1; }));
  }

  void fresh_async(bool row_major) {
    ReleaseCounter released;
    Loan loan = test::loan_of(source(), released);
    Loan result;
    {
      const Future future =
          cuda::stage_to_host_async(std::move(loan), stream_, {.row_major = row_major});
      EXPECT_FALSE(loan.owns_memory());
      result = future.result();
      EXPECT_EQ(released.count(), 1);
      EXPECT_EQ(future.result().view().data, result.view().data);
    }
    EXPECT_EQ(released.count(), 1);
    expect_result(result, row_major);  // it outlives the Future
  }

  // Among tensors of another dtype, without elements, and itself once more.
  void batch(bool async) {
    const Placement small({.shape = {3}, .strides = {2}, .dtype = test::kInt8});
    const Bytes small_content = pattern(small.block_bytes(), 2);
    const OnDevice other(backend_, small, small_content);
    const test::Shaped empty({2, 0}, {5, 7}, test::kFloat64, nullptr);
    TensorView nothing = empty.view();
    nothing.device = source().device;
    const TensorView views[] = {other.view(), source(), nothing, source()};
    std::vector<Loan> results;
    ReleaseCounter released;
    if (async) {
      std::vector<Loan> loans;
      for (const TensorView& view : views) loans.push_back(test::loan_of(view, released));
      const Future future = cuda::stage_to_host_async(loans, stream_);
      ASSERT_EQ(future.size(), std::size(views));
      for (size_t i = 0; i < future.size(); ++i) {
        EXPECT_FALSE(loans[i].owns_memory());
        results.push_back(future.result(i));
      }
      EXPECT_EQ(released.count(), static_cast<int>(std::size(views)));
    } else {
      results = cuda::stage_to_host(views, stream_);
    }
    ASSERT_EQ(results.size(), std::size(views));
    expect_result(results[1], false);
    expect_result(results[3], false);
    expect_fresh(results[0].view(), other.view(), false);
    expect_fresh(results[2].view(), nothing, false);
    host_reads(backend_, results[0].view());
    Bytes twin = small_content;
    EXPECT_TRUE(same(elements_of(results[0].view()), elements_of(small.view(twin.data()))));
  }

  void expect_result(const Loan& result, bool row_major) {
    expect_fresh(result.view(), source(), row_major);
    host_reads(backend_, result.view());
    Bytes twin = content_;
    EXPECT_TRUE(same(elements_of(result.view()), elements_of(from_.view(twin.data()))));
    std::fill_n(static_cast<uint8_t*>(result.view().data), result.view().nbytes(), kOverwritten);
  }

  Backend& backend_;
  const Placement from_;
  const Placement to_;
  const Stream stream_;
  const Bytes content_;
  const OnDevice device_;
};

class DeviceCheck {
 public:
  DeviceCheck(Backend& backend, const Spec& source, const Spec& target, Stream stream, bool pinned)
      : backend_(backend),
        from_(source),
        to_(target),
        stream_(stream),
        host_(from_.block_bytes(), pinned),
        device_(backend, to_, Bytes(to_.block_bytes(), kPoison)) {
    const Bytes content = pattern(from_.block_bytes(), 1);
    host_.assign(content);
    expected_ = copied(from_, content, to_);
  }

  void run(const Way& way) {
    if (way.call == Way::batch) return run_batch();
    if (way.has(Way::async)) return run_async(way);
    cuda::stage(source(), target(), stream_);
    expect_arrived();
  }

 private:
  TensorView source() const { return from_.view(host_.bytes().data()); }
  TensorView target() const { return device_.view(); }

  // The source has been read, and what the consumer does from here on sees the data.
  void expect_arrived() {
    std::ranges::fill(host_.bytes(), kOverwritten);
    expect_seen();
  }

  void expect_seen() {
    if (has_edges(stream_)) {
      const auto seen = backend_.enqueue_read(stream_, device_.block(), to_.block_bytes());
      backend_.synchronize(stream_);
      EXPECT_TRUE(same(*seen, expected_));
    } else {
      EXPECT_TRUE(same(device_.read(), expected_));
    }
  }

  void run_async(const Way& way) {
    ReleaseCounter source_released;
    ReleaseCounter target_released;
    Loan source_loan = test::loan_of(source(), source_released);
    Loan target_loan = test::loan_of(target(), target_released);
    {
      const Future future = cuda::stage_async(std::move(source_loan), std::move(target_loan),
                                              stream_, {.borrow = way.has(Way::borrow)});
      EXPECT_FALSE(source_loan.owns_memory());
      EXPECT_FALSE(target_loan.owns_memory());
      if (!way.has(Way::pinned) && !way.has(Way::borrow) && has_edges(stream_)) {
        expect_arrived();  // a pageable source has been read when the call returns
      } else {
        ASSERT_TRUE(future.wait());
        expect_seen();
      }
      const Loan result = future.result();
      EXPECT_EQ(result.view().data, target().data);
      EXPECT_EQ(source_released.count(), 1);
      EXPECT_EQ(target_released.count(), 0);
    }
    EXPECT_EQ(source_released.count(), 1);
    EXPECT_TRUE(comes_true([&] { return target_released.count() == 1; }));
  }

  // Among others: an empty one, one of another dtype, and a second one that has to be unpacked.
  void run_batch() {
    const Placement small({.shape = {3, 5}, .strides = {1, 4}, .dtype = test::kInt64});
    const Bytes small_content = pattern(small.block_bytes(), 2);
    Bytes small_source = small_content;
    const OnDevice other(backend_, small, Bytes(small.block_bytes(), kPoison));
    const test::Shaped empty({2, 0}, {5, 7}, test::kFloat64, nullptr);
    TensorView nothing = empty.view();
    nothing.device = target().device;
    const TensorView sources[] = {small.view(small_source.data()), empty.view(), source()};
    const TensorView targets[] = {other.view(), nothing, target()};
    cuda::stage(sources, targets, stream_);
    std::ranges::fill(small_source, kOverwritten);
    expect_arrived();
    EXPECT_TRUE(same(other.read(), copied(small, small_content, small)));
  }

  Backend& backend_;
  const Placement from_;
  const Placement to_;
  const Stream stream_;
  HostMemory host_;
  const OnDevice device_;
  Bytes expected_;
};

void check_on_device(Backend& backend, const Way& way, const Spec& source, const Spec& target,
                     Stream stream) {
  const Placement from(source);
  const Placement to(target);
  const Bytes content = pattern(from.block_bytes(), 1);
  const OnDevice there(backend, from, content);
  const OnDevice here(backend, to, Bytes(to.block_bytes(), kPoison));
  Future future;
  ReleaseCounter released;
  if (way.has(Way::async)) {
    future = cuda::stage_async(test::loan_of(there.view(), released),
                               test::loan_of(here.view(), released), stream);
    if (!has_edges(stream)) {
      EXPECT_TRUE(future.wait());
    }
  } else {
    cuda::stage(there.view(), here.view(), stream);
  }
  if (has_edges(stream)) {
    const auto seen = backend.enqueue_read(stream, here.block(), to.block_bytes());
    backend.synchronize(stream);
    EXPECT_TRUE(same(*seen, copied(from, content, to)));
  } else {
    EXPECT_TRUE(same(here.read(), copied(from, content, to)));
  }
  EXPECT_TRUE(same(there.read(), content));
  if (!future) return;
  EXPECT_EQ(future.result().view().data, here.view().data);
  EXPECT_EQ(released.count(), 1);
  future = {};
  EXPECT_TRUE(comes_true([&] { return released.count() == 2; }));
}

}  // namespace

const std::vector<Way>& ways_to(Side side) {
  using enum Side;
  using enum Way::Call;
  using enum Way::Option;
  static const std::vector<Way> ways[] = {
      {{"out", host, into},
       {"out_pinned", host, into, pinned},
       {"out_async", host, into, async},
       {"out_pinned_async", host, into, async | pinned},
       {"fresh", host, fresh},
       {"fresh_row_major", host, fresh, row_major},
       {"fresh_async", host, fresh, async},
       {"fresh_row_major_async", host, fresh, async | row_major},
       {"batch", host, batch},
       {"batch_async", host, batch, async}},
      {{"stage", device, into},
       {"stage_pinned", device, into, pinned},
       {"async", device, into, async},
       {"async_pinned", device, into, async | pinned},
       {"async_borrow", device, into, async | borrow},
       {"batch", device, batch}},
      {{"on_device", on_device, into}, {"on_device_async", on_device, into, async}}};
  return ways[static_cast<size_t>(side)];
}

void check_way(Backend& backend, const Way& way, const Spec& source, const Spec& target,
               Stream stream) try {
  if (way.to == Side::on_device) return check_on_device(backend, way, source, target, stream);
  if (way.to == Side::device)
    return DeviceCheck(backend, source, target, stream, way.has(Way::pinned)).run(way);
  HostCheck check(backend, source, target, stream);
  check.run(way);
  if (has_edges(stream)) backend.synchronize(stream);
  check.expect_source_untouched();
} catch (const std::exception& error) {  // ends the check, not the test
  ADD_FAILURE() << error.what();
}

bool comes_true(const std::function<bool()>& condition) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return true;
}

void expect_fresh(const TensorView& result, const TensorView& source, bool row_major) {
  EXPECT_TRUE(std::ranges::equal(result.extents(), source.extents()));
  EXPECT_EQ(DType(result.dtype), DType(source.dtype));
  EXPECT_EQ(result.subbyte_padded, source.subbyte_padded);
  EXPECT_TRUE(Device(result.device).is_host());
  EXPECT_EQ(result.access, Access::writable);
  EXPECT_TRUE(result.is_copied);
  EXPECT_EQ(result.byte_offset, 0u);
  if (result.is_empty()) return;
  EXPECT_EQ(reinterpret_cast<uintptr_t>(result.data) % 64, 0u);
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, extent; the innermost last
  for (int32_t i = 0; i < result.ndim; ++i) {
    if (result.shape[i] != 1) dims.emplace_back(result.strides[i], result.shape[i]);
  }
  if (!row_major)
    std::ranges::stable_sort(dims, std::ranges::greater{}, [](auto& d) { return d.first; });
  int64_t dense = 1;
  for (size_t i = dims.size(); i-- > 0; dense *= dims[i].second) {
    EXPECT_EQ(dims[i].first, dense) << "dimension " << i << " of those that are not 1";
  }
}

OnDevice::OnDevice(Backend& backend, const Placement& placement, const Bytes& content)
    : backend_(backend), placement_(placement), block_(backend.allocate(placement.block_bytes())) {
  backend_.write(block_, content);
}

OnDevice::~OnDevice() { backend_.free(block_); }

TensorView OnDevice::view() const {
  return placement_.view(block_, Device(DeviceType::cuda, backend_.device()));
}

Bytes OnDevice::read() const { return backend_.read(block_, placement_.block_bytes()); }

}  // namespace dlbridge::contract
