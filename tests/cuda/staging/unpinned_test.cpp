// SPDX-License-Identifier: Apache-2.0
// Where the pool's limit leaves not even room for a ring: the driver copies from and to ordinary
// memory, in each of the ways in which it may. All that is promised of a staging holds.
#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

using cuda::StageOptions;
using cuda_sim::Pageable;

enum class Mode : uint8_t { synchronous, staged, deferred };

struct Case {
  const char* name;
  Layout on_device;
  Layout on_host;
  Mode mode;
};

std::ostream& operator<<(std::ostream& out, const Case& each) {
  const char* const modes[] = {"synchronous", "staged", "deferred"};
  return out << each.name << "_" << modes[static_cast<size_t>(each.mode)];
}

std::vector<Case> cases() {
  const auto second = [](int64_t size) { return Layout({size}, std::vector<int64_t>{2}); };
  constexpr int64_t kMany = 200'000;  // above what one block would hold, were there one
  std::vector<Case> all;
  for (const Mode mode : {Mode::synchronous, Mode::staged, Mode::deferred}) {
    all.push_back({"small", Layout({9, 7}), Layout({9, 7}), mode});
    all.push_back({"large", Layout({kMany}), Layout({kMany}), mode});
    all.push_back({"rows", Layout({80, 1024}, {1500, 1}), Layout({80, 1024}), mode});
    all.push_back({"strided_on_device", second(kMany), Layout({kMany}), mode});
    all.push_back({"strided_on_host", Layout({kMany}), second(kMany), mode});
    all.push_back({"strided_on_both", second(kMany), second(kMany), mode});
    all.push_back({"small_strided_on_both", second(100), second(100), mode});
    all.push_back({"transposed", Layout({300, 500}, {1, 300}), Layout({300, 500}), mode});
  }
  return all;
}

class Unpinned : public StagingTest, public testing::WithParamInterface<Case> {
 protected:
  void SetUp() override { start_with(Schedule::lazy); }

  void start_with(Schedule schedule) {
    const Pageable ways[] = {Pageable::synchronous, Pageable::staged, Pageable::deferred};
    Config config;
    config.schedule = schedule;
    config.pageable = ways[static_cast<size_t>(GetParam().mode)];
    start(config);
    cuda::set_pinned_limit(0);
  }

  void TearDown() override {
    if (!HasFatalFailure()) {
      EXPECT_EQ(sim().peak_registered_bytes(), pinned_of_others_) << "beyond the limit";
    }
    StagingTest::TearDown();
  }

  TestTensor& source_on_host(bool pinned, uint32_t seed) {
    if (!pinned) return host(GetParam().on_host, seed);
    TestTensor& made = foreign_pinned(GetParam().on_host, seed);
    pinned_of_others_ = sim().registered_bytes();
    return made;
  }

 private:
  size_t pinned_of_others_ = 0;
};

// ---- To host

TEST_P(Unpinned, AResultIsOrdinaryMemory) {
  TestTensor& x = device(GetParam().on_device);
  const cudaStream_t producer = stream();
  produce(producer, x, 2);
  const Loan result = cuda::stage_to_host(x.view(), on(producer));
  EXPECT_FALSE(cuda::is_page_locked(result.view()));
  EXPECT_TRUE(elements(result) == elements_with(x, 2));
  const cuda::Future future = cuda::stage_to_host_async(x.acquire(), on(producer));
  produce(producer, x, 3);  // behind the copy
  EXPECT_TRUE(elements(future.result()) == elements_with(x, 2));
  const Loan rows = cuda::stage_to_host(x.view(), on(producer), {.row_major = true});
  EXPECT_TRUE(elements(rows) == elements_with(x, 3));
}

TEST_P(Unpinned, OutIsFilled) {
  TestTensor& x = device(GetParam().on_device);
  TestTensor& out = host(GetParam().on_host, 9);
  const cudaStream_t producer = stream();
  produce(producer, x, 2);
  cuda::stage_to_host(x.view(), out.view(), on(producer));
  EXPECT_TRUE(elements(out) == elements_with(x, 2));
  fill(out, 9);
  produce(producer, x, 3);
  const cuda::Future future = cuda::stage_to_host_async(x.acquire(), out.acquire(), on(producer));
  produce(producer, x, 4);
  EXPECT_TRUE(elements(future.result()) == elements_with(x, 3));
  EXPECT_EQ(x.releases(), 1);
}

TEST_P(Unpinned, ABatchIsBrought) {
  TestTensor& x = device(GetParam().on_device);
  TestTensor& y = device({{5}}, 7);
  const cudaStream_t producer = stream();
  produce(producer, x, 2);
  const TensorView views[] = {x.view(), y.view(), x.view()};
  const std::vector<Loan> results = cuda::stage_to_host(views, on(producer));
  Loan loans[] = {x.acquire(), y.acquire(), x.acquire()};
  const cuda::Future future = cuda::stage_to_host_async(loans, on(producer));
  produce(producer, x, 3);
  for (size_t i = 0; i < 3; ++i) {
    const auto expected = i == 1 ? elements_with(y, 7) : elements_with(x, 2);
    EXPECT_TRUE(elements(results[i]) == expected);
    EXPECT_TRUE(elements(future.result(i)) == expected);
  }
}

// ---- To device

TEST_P(Unpinned, ATargetIsFilled) {
  for (const bool pinned : {false, true}) {
    SCOPED_TRACE(pinned);
    TestTensor& target = device(GetParam().on_device, 9);
    TestTensor& source = source_on_host(pinned, 2);
    const cudaStream_t consumer = stream();
    static_cast<void>(consume(consumer, target));
    cuda::stage_to_device(source.view(), target.view(), on(consumer));
    fill(source, 3);  // it has been read
    const auto seen = consume(consumer, target);
    sim().synchronize(consumer);
    EXPECT_TRUE(elements(target) == elements_with(source, 2));
    EXPECT_EQ(seen->size(), target.span());
  }
}

TEST_P(Unpinned, PageableSourceIsReadOnReturn) {
  TestTensor& target = device(GetParam().on_device, 9);
  TestTensor& source = host(GetParam().on_host, 2);
  const cudaStream_t consumer = stream();
  const cuda::Future future =
      cuda::stage_to_device_async(source.acquire(), target.acquire(), on(consumer));
  sim().host_wrote(source.memory(), source.span());
  fill(source, 3);
  const auto seen = consume(consumer, target);
  EXPECT_TRUE(future.wait(10));
  EXPECT_EQ(source.releases(), 1);
  sim().synchronize(consumer);
  EXPECT_TRUE(elements(target) == elements_with(source, 2));
  EXPECT_EQ(seen->size(), target.span());
}

TEST_P(Unpinned, PinnedSourceIsHeld) {
  start_with(Schedule::eager);
  TestTensor& target = device(GetParam().on_device, 9);
  TestTensor& source = source_on_host(true, 2);
  const cudaStream_t consumer = stream();
  const bool reads_pageable = GetParam().on_host.strides.back() == 2;
  if (!reads_pageable || GetParam().mode == Mode::deferred) sim().hold_stream(consumer);
  TestTensor& before = device({{1}});
  produce(consumer, before, 2);
  const cuda::Future future =
      cuda::stage_to_device_async(source.acquire(), target.acquire(), on(consumer));
  if (!reads_pageable || GetParam().mode == Mode::deferred) {
    EXPECT_EQ(source.releases() + target.releases(), 0);
    EXPECT_FALSE(future.done());
  }
  sim().go_stream(consumer);
  EXPECT_TRUE(future.wait(10));
  EXPECT_EQ(source.releases(), 1);
  EXPECT_TRUE(elements(target) == elements_with(source, 2));
}

TEST_P(Unpinned, BorrowedSourceIsHeld) {
  start_with(Schedule::eager);
  TestTensor& target = device(GetParam().on_device, 9);
  TestTensor& source = host(GetParam().on_host, 2);
  const cudaStream_t consumer = stream();
  bool dropped = false;
  source.on_release = [&] { dropped = true; };
  sim().hold();
  const cuda::Future future = cuda::stage_to_device_async(source.acquire(), target.acquire(),
                                                          on(consumer), {.borrow = true});
  EXPECT_FALSE(future.wait(0.05));
  const bool copied_by_host = GetParam().on_host.strides.back() == 2;
  if (!copied_by_host) {
    EXPECT_FALSE(dropped) << "the device has yet to read it";
  }
  EXPECT_EQ(target.releases(), 0);
  sim().go();
  EXPECT_TRUE(future.wait(10));
  EXPECT_EQ(source.releases(), 1);
  EXPECT_TRUE(elements(target) == elements_with(source, 2));
}

TEST_P(Unpinned, ABatchIsSent) {
  TestTensor& target = device(GetParam().on_device, 9);
  TestTensor& other = device({{5}}, 9);
  TestTensor& source = host(GetParam().on_host, 2);
  TestTensor& pinned = foreign_pinned({{5}}, 4);
  const cudaStream_t consumer = stream();
  const TensorView sources[] = {source.view(), pinned.view()};
  const TensorView targets[] = {target.view(), other.view()};
  cuda::stage_to_device(sources, targets, on(consumer));
  fill(source, 3);
  const auto seen = consume(consumer, target);
  sim().synchronize(consumer);
  EXPECT_TRUE(elements(target) == elements_with(source, 2));
  EXPECT_TRUE(elements(other) == elements_with(pinned, 4));
  EXPECT_EQ(seen->size(), target.span());
  static_cast<void>(source_on_host(true, 1));  // what is registered is not the pool's
}

INSTANTIATE_TEST_SUITE_P(All, Unpinned, testing::ValuesIn(cases()),
                         testing::PrintToStringParamName());

// ---- Repeated elements

class UnpinnedBroadcast : public StagingTest, public testing::WithParamInterface<Pageable> {};

TEST_P(UnpinnedBroadcast, CrossesOnceInBothDirections) {
  Config config;
  config.schedule = Schedule::lazy;
  config.pageable = GetParam();
  start(config);
  cuda::set_pinned_limit(0);
  const Layout repeated({50, 40, 300}, {300, 0, 1});
  TestTensor& x = device(repeated);
  const cudaStream_t caller = stream();
  produce(caller, x, 2);
  EXPECT_TRUE(elements(cuda::stage_to_host(x.view(), on(caller))) == elements_with(x, 2));
  EXPECT_TRUE(elements(cuda::stage_to_host_async(x.acquire(), on(caller)).result()) ==
              elements_with(x, 2));
  TestTensor& source = host(repeated, 3);
  TestTensor& target = device({{50, 40, 300}}, 9);
  cuda::stage_to_device(source.view(), target.view(), on(caller));
  fill(source, 4);
  sim().synchronize(caller);
  EXPECT_TRUE(elements(target) == elements_with(source, 3));
  const cuda::Future future =
      cuda::stage_to_device_async(source.acquire(), target.acquire(), on(caller), {.borrow = true});
  EXPECT_TRUE(future.wait(10));
  EXPECT_TRUE(elements(target) == elements_with(source, 4));
  EXPECT_EQ(sim().peak_registered_bytes(), 0u);
}

INSTANTIATE_TEST_SUITE_P(All, UnpinnedBroadcast,
                         testing::Values(Pageable::synchronous, Pageable::staged,
                                         Pageable::deferred));

// ---- A limit that is nearly nothing

class UnpinnedLimit : public StagingTest, public testing::WithParamInterface<size_t> {};

TEST_P(UnpinnedLimit, IsKeptWithoutBlocking) {
  Config config;
  config.schedule = Schedule::lazy;
  start(config);
  cuda::set_pinned_limit(GetParam());
  TestTensor& x = device({{400'000}});
  TestTensor& out = host(Layout({400'000}, std::vector<int64_t>{2}));
  const cudaStream_t caller = stream();
  produce(caller, x, 2);
  cuda::stage_to_host(x.view(), out.view(), on(caller));
  EXPECT_TRUE(elements(out) == elements_with(x, 2));
  TestTensor& target = device({{400'000}}, 9);
  cuda::stage_to_device(out.view(), target.view(), on(caller));
  sim().synchronize(caller);
  EXPECT_TRUE(elements(target) == elements(out));
  EXPECT_LE(sim().peak_registered_bytes(), GetParam());
  EXPECT_EQ(cuda::pinned_stats().owned, 0u) << "of a ring that was too small nothing is kept";
}

INSTANTIATE_TEST_SUITE_P(All, UnpinnedLimit,
                         testing::Values(size_t{0}, size_t{4096}, size_t{256} << 10,
                                         size_t{511} << 10, size_t{512} << 10, size_t{2} << 20,
                                         size_t{3} << 20));

}  // namespace
}  // namespace dlbridge::test
