// SPDX-License-Identifier: Apache-2.0
// PinnedPool, one thread: sizes, states, tickets, fences, the limit, failures, the end, fork.
#include "pinned/pool.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <optional>
#include <thread>

#include "counting_api.h"
#include "errors.h"
#include "pinned/size_classes.h"

namespace dlbridge::cuda {
namespace {

using test::CountingApi;
using test::error_of;
using test::expect_consistent;
using test::expect_error;
using test::is_mapped;
using test::TestFences;

constexpr size_t kKiB = size_t{1} << 10;
constexpr size_t kMiB = size_t{1} << 20;

void release(Deleter deleter) { deleter.release(deleter.context); }

class PinnedPoolTest : public ::testing::Test {
 protected:
  explicit PinnedPoolTest(size_t limit = 256 * kMiB)
      : fences_(std::in_place, api_), pool_(std::in_place, api_.table(), *fences_, limit) {}
  ~PinnedPoolTest() override { EXPECT_EQ(CountingApi::last_error(), cudaSuccess); }

  PinnedStats stats() const {
    const PinnedStats stats = pool_->stats();
    expect_consistent(stats);
    EXPECT_EQ(stats.registered, api_.registered());
    return stats;
  }
  /// Bytes in {owned, in flight, quarantined, leaked}; the rest must be free.
  void expect_bytes(size_t owned, size_t in_flight, size_t quarantined, size_t leaked) const {
    const PinnedStats now = stats();
    EXPECT_EQ(now.owned, owned);
    EXPECT_EQ(now.in_flight, in_flight);
    EXPECT_EQ(now.quarantined, quarantined);
    EXPECT_EQ(now.leaked, leaked);
  }

  /// Leaves a free block.
  void free_block(size_t bytes) { pool_->take(bytes); }
  /// A result of this size that is dropped at once. Returns where it was.
  std::byte* drop_result(size_t bytes) {
    PinnedBlock block = pool_->take(bytes);
    std::byte* const place = block.data();
    release(std::move(block).into_deleter());
    return place;
  }
  struct Retired {
    const std::byte* place;
    cudaEvent_t event;
  };
  /// A block of this size in flight until the event passes.
  Retired retire(size_t bytes) {
    PooledEvent ticket = fences_->ticket();
    PinnedBlock block = pool_->take(bytes);
    const Retired retired{block.data(), ticket.get()};
    std::move(block).retire(std::move(ticket));
    return retired;
  }

  CountingApi api_;
  std::optional<TestFences> fences_;
  std::optional<PinnedPool> pool_;
};

// ---- Sizes

TEST(PinnedClasses, WasteAtMostAQuarter) {
  size_t previous = 0;
  int in_doubling = 0;
  for (int c = 0; c < pinned::kClasses; ++c) {
    const size_t bytes = pinned::class_bytes(c);
    ASSERT_GT(bytes, previous);
    EXPECT_EQ(pinned::class_of(bytes), c);
    EXPECT_EQ(pinned::class_of(previous + 1), c);
    EXPECT_EQ(bytes % 64, 0u);
    EXPECT_EQ(pinned::span_bytes(c) % pinned::kPage, 0u);
    EXPECT_EQ(pinned::span_bytes(c) % bytes, 0u);
    if (previous >= 256) {
      EXPECT_LE(bytes - previous, previous / 4) << bytes;
    }
    ++in_doubling;
    if (bytes >= 512 && std::has_single_bit(bytes)) {
      EXPECT_EQ(in_doubling, 4) << bytes;
    }
    if (std::has_single_bit(bytes)) in_doubling = 0;
    previous = bytes;
  }
  EXPECT_EQ(previous, 8 * kMiB);
  EXPECT_EQ(pinned::class_of(0), 0);
}

TEST(PinnedClasses, LargeBlocksRoundToTwoMebibytes) {
  constexpr size_t kFour = size_t{4} << 30;
  EXPECT_EQ(pinned::large_bytes(kFour), kFour);
  EXPECT_EQ(pinned::large_bytes(kFour + 1), kFour + 2 * kMiB);
  EXPECT_EQ(pinned::large_bytes(8 * kMiB + 1), 10 * kMiB);
}

TEST_F(PinnedPoolTest, BlockSizeAndAlignment) {
  for (const size_t bytes : {size_t{1}, size_t{64}, size_t{65}, 3 * kKiB, 4 * kKiB + 1, 64 * kKiB,
                             64 * kKiB + 1, kMiB, 5 * kMiB, 8 * kMiB, 8 * kMiB + 1, 33 * kMiB}) {
    const PinnedBlock block = pool_->take(bytes);
    ASSERT_TRUE(block) << bytes;
    EXPECT_EQ(block.size(), bytes);
    EXPECT_GE(block.capacity(), bytes);
    EXPECT_LE(block.capacity() - bytes,
              std::max<size_t>(63, bytes > 8 * kMiB ? 2 * kMiB : bytes / 4));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block.data()) % (bytes > 8 * kMiB ? 2 * kMiB : 64), 0u);
    std::memset(block.data(), 0xff, block.capacity());
    EXPECT_GE(pool_->bytes_to_seam(block.data()), block.capacity());
    EXPECT_EQ(stats().owned, block.capacity());
  }
  EXPECT_EQ(stats().owned, 0u);
}

TEST_F(PinnedPoolTest, EmptyBlockIsValid) {
  PinnedBlock block = pool_->take(0);
  ASSERT_TRUE(block);
  EXPECT_EQ(block.size(), 0u);
  EXPECT_NE(block.data(), nullptr);
  PinnedBlock other = pool_->take(0);
  EXPECT_NE(other.data(), block.data());
  std::move(other).retire(fences_->passed_ticket());
  release(std::move(block).into_deleter());
  pool_->poll();
  expect_bytes(0, 0, 0, 0);
}

TEST_F(PinnedPoolTest, PinsWholeHugePages) {
  const PinnedBlock scalar = pool_->take(4);
  EXPECT_EQ(stats().registered, 2 * kMiB);
  const PinnedBlock large = pool_->take(64 * kMiB + 1);
  EXPECT_EQ(stats().registered, 68 * kMiB);
}

TEST_F(PinnedPoolTest, SmallBlocksShareSegments) {
  std::vector<PinnedBlock> blocks;
  for (size_t bytes = 64; bytes <= 64 * kKiB; bytes *= 2) {
    for (int i = 0; i < 4; ++i) blocks.push_back(pool_->take(bytes));
  }
  EXPECT_EQ(stats().grows, 1u);
  std::vector<std::pair<std::byte*, std::byte*>> places;
  for (const auto& block : blocks)
    places.emplace_back(block.data(), block.data() + block.capacity());
  std::sort(places.begin(), places.end());
  for (size_t i = 1; i < places.size(); ++i) EXPECT_LE(places[i - 1].second, places[i].first);
}

TEST_F(PinnedPoolTest, ReusesSlightlyLargerBlock) {
  const std::byte* const place = pool_->take(50 * kMiB).data();
  EXPECT_EQ(pool_->take(40 * kMiB).data(), place);  // 10 of 40: a quarter
  EXPECT_EQ(pool_->take(50 * kMiB).data(), place);
  EXPECT_EQ(stats().grows, 1u);
  EXPECT_NE(pool_->take(39 * kMiB - 2 * kMiB).data(), place);
  EXPECT_NE(pool_->take(52 * kMiB).data(), place);
  EXPECT_EQ(stats().grows, 3u);
  EXPECT_EQ(pool_->take(49 * kMiB).data(), place);  // of two that fit, the smaller
}

TEST_F(PinnedPoolTest, FreePagesChangeClass) {
  std::vector<PinnedBlock> blocks;
  for (int i = 0; i < 16; ++i) blocks.push_back(pool_->take(128 * kKiB));
  EXPECT_EQ(stats().registered, 2 * kMiB);
  blocks.clear();
  for (int i = 0; i < 4; ++i) blocks.push_back(pool_->take(512 * kKiB));
  EXPECT_EQ(stats().registered, 2 * kMiB);
  EXPECT_EQ(stats().grows, 1u);
}

TEST_F(PinnedPoolTest, BlockFitsOnePiece) {
  pool_.emplace(api_.table(), *fences_, 256 * kMiB, 8 * kMiB);
  const PinnedBlock large = pool_->take(20 * kMiB);
  EXPECT_EQ(pool_->bytes_to_seam(large.data() + 10 * kMiB), 6 * kMiB);
  EXPECT_EQ(pool_->bytes_to_seam(large.data() + 17 * kMiB), 3 * kMiB);
  EXPECT_EQ(api_.pieces().size(), 3u);
  for (const size_t bytes : {size_t{100}, 3 * kMiB, 5 * kMiB, 8 * kMiB}) {
    const PinnedBlock block = pool_->take(bytes);
    EXPECT_GE(pool_->bytes_to_seam(block.data()), bytes);
    EXPECT_EQ(pool_->bytes_to_seam(block.data() + 1) + 1, pool_->bytes_to_seam(block.data()));
  }
  const int elsewhere = 0;
  EXPECT_EQ(pool_->bytes_to_seam(&elsewhere), 0u);
  EXPECT_EQ(pool_->bytes_to_seam(nullptr), 0u);
}

TEST_F(PinnedPoolTest, KnowsWhichAddressesAreHeld) {
  std::optional<PinnedBlock> block(pool_->take(1000));
  std::byte* const place = block->data();
  EXPECT_TRUE(pool_->holds(place));
  EXPECT_TRUE(pool_->holds(place + 999));
  EXPECT_FALSE(pool_->holds(place + block->capacity()));
  EXPECT_FALSE(pool_->holds(place - 1));
  const Deleter deleter = std::move(*block).into_deleter();
  EXPECT_TRUE(pool_->holds(place));
  release(deleter);
  EXPECT_FALSE(pool_->holds(place));
  const PinnedBlock large = pool_->take(20 * kMiB);
  EXPECT_TRUE(pool_->holds(large.data() + 20 * kMiB - 1));
  EXPECT_FALSE(pool_->holds(large.data() + 20 * kMiB));
  EXPECT_FALSE(pool_->holds(&deleter));
}

// ---- States

TEST_F(PinnedPoolTest, DestroyedBlockIsFree) {
  for (const size_t bytes : {size_t{64}, 64 * kKiB, kMiB, 20 * kMiB}) {
    const std::byte* place = nullptr;
    {
      const PinnedBlock block = pool_->take(bytes);
      place = block.data();
      expect_bytes(block.capacity(), 0, 0, 0);
    }
    expect_bytes(0, 0, 0, 0);
    EXPECT_EQ(pool_->take(bytes).data(), place);
  }
  EXPECT_EQ(fences_->taken, 0);
  EXPECT_EQ(fences_->polls, 0);
}

TEST_F(PinnedPoolTest, MovedBlockFreesOnce) {
  PinnedBlock a = pool_->take(100);
  PinnedBlock b(std::move(a));
  EXPECT_FALSE(a);  // NOLINT: what a move leaves is part of the promise
  EXPECT_EQ(a.data(), nullptr);
  EXPECT_EQ(a.size(), 0u);
  PinnedBlock c = pool_->take(200);
  c = std::move(b);
  EXPECT_EQ(c.size(), 100u);
  expect_bytes(128, 0, 0, 0);
}

// Rule: 41
TEST_F(PinnedPoolTest, RetiredBlockWaitsForTickets) {
  for (const size_t bytes : {64 * kKiB, 20 * kMiB}) {
    std::vector<PooledEvent> tickets;
    for (int i = 0; i < 3; ++i) tickets.push_back(fences_->ticket());
    const cudaEvent_t events[] = {tickets[0].get(), tickets[1].get(), tickets[2].get()};
    PinnedBlock block = pool_->take(bytes);
    const std::byte* const place = block.data();
    const size_t capacity = block.capacity();
    std::move(block).retire(std::move(tickets));
    EXPECT_FALSE(block);  // NOLINT
    for (const int i : {1, 0, 2}) {
      pool_->poll();
      expect_bytes(0, capacity, 0, 0);
      EXPECT_FALSE(pool_->holds(place));
      fences_->pass(events[i]);
    }
    pool_->poll();
    expect_bytes(0, 0, 0, 0);
  }
  EXPECT_EQ(fences_->taken, 0);
}

TEST_F(PinnedPoolTest, TakeFreesPassedBlocks) {
  const auto [place, event] = retire(20 * kMiB);
  EXPECT_NE(pool_->take(20 * kMiB).data(), place);
  pool_->trim(20 * kMiB);  // the other one
  fences_->pass(event);
  EXPECT_EQ(pool_->take(20 * kMiB).data(), place);
}

TEST_F(PinnedPoolTest, RetiringWithoutTicketsFrees) {
  pool_->take(100).retire(PooledEvent());
  expect_bytes(0, 0, 0, 0);
  pool_->take(100).retire(std::vector<PooledEvent>());
  expect_bytes(0, 0, 0, 0);
}

TEST_F(PinnedPoolTest, StuckTicketBlocksNoOther) {
  const cudaEvent_t stuck = retire(kMiB).event;
  uint64_t grows = 0;
  for (int round = 0; round < 20; ++round) {
    std::vector<PinnedBlock> blocks;
    for (int i = 0; i < 200; ++i) blocks.push_back(pool_->take(kMiB / 4));
    for (auto& block : blocks) std::move(block).retire(fences_->passed_ticket());
    if (round == 0) grows = stats().grows;
  }
  EXPECT_EQ(stats().grows, grows);
  pool_->poll();
  expect_bytes(0, kMiB, 0, 0);
  fences_->pass(stuck);
}

TEST_F(PinnedPoolTest, ManyStuckTicketsBlockNoOther) {
  std::vector<cudaEvent_t> stuck;
  for (int i = 0; i < 300; ++i) stuck.push_back(retire(64).event);
  PinnedBlock block = pool_->take(20 * kMiB);
  const std::byte* const place = block.data();
  std::move(block).retire(fences_->passed_ticket());
  EXPECT_EQ(pool_->take(20 * kMiB).data(), place);
  for (const cudaEvent_t event : stuck) fences_->pass(event);
}

TEST_F(PinnedPoolTest, FindsPassedBeforeGrowing) {
  std::vector<PinnedBlock> blocks;
  for (int i = 0; i < 300; ++i) blocks.push_back(pool_->take(64));
  for (int i = 0; i < 15; ++i) blocks.push_back(pool_->take(128 * kKiB));
  std::vector<cudaEvent_t> stuck;
  for (auto& block : blocks) {
    PooledEvent ticket = fences_->ticket();
    (block.size() == 64 ? stuck.push_back(ticket.get()) : fences_->pass(ticket.get()));
    std::move(block).retire(std::move(ticket));
  }
  const PinnedBlock block = pool_->take(kMiB);
  EXPECT_EQ(stats().registered, 2 * kMiB);
  for (const cudaEvent_t event : stuck) fences_->pass(event);
}

TEST_F(PinnedPoolTest, StuckFenceBlocksNoLater) {
  fences_->hold_fences();
  const Deleter second = pool_->take(2 * kMiB).into_deleter();
  drop_result(kMiB);
  pool_->poll();
  fences_->pass_new_fences();
  release(second);
  pool_->poll();
  expect_bytes(0, 0, kMiB, 0);
  fences_->pass_fences();
}

TEST_F(PinnedPoolTest, ReleaseCallsNoCuda) {
  for (const size_t bytes : {size_t{4}, kMiB, 20 * kMiB}) {
    PinnedBlock block = pool_->take(bytes);
    const size_t capacity = block.capacity();
    const Deleter deleter = std::move(block).into_deleter();
    expect_bytes(capacity, 0, 0, 0);
    const size_t calls = api_.calls();
    const int taken = fences_->taken;
    const int polls = fences_->polls;
    release(deleter);
    EXPECT_EQ(api_.calls(), calls);
    EXPECT_EQ(fences_->taken, taken);
    EXPECT_EQ(fences_->polls, polls);
    expect_bytes(0, 0, capacity, 0);
    pool_->poll();
    expect_bytes(0, 0, 0, 0);
  }
}

TEST_F(PinnedPoolTest, ReuseWaitsForLaterFence) {
  fences_->hold_fences();
  for (const size_t bytes : {size_t{64}, 20 * kMiB}) {
    const std::byte* const place = drop_result(bytes);
    std::vector<PinnedBlock> others;
    for (int i = 0; i < (bytes == 64 ? 2000 : 3); ++i) {
      others.push_back(pool_->take(bytes));
      ASSERT_NE(others.back().data(), place);
    }
    EXPECT_GE(fences_->taken, 1);
    EXPECT_EQ(stats().quarantined, bytes);
    fences_->pass_fences();
    others.clear();
    pool_->poll();
    expect_bytes(0, 0, 0, 0);
    fences_->hold_fences();
  }
  fences_->pass_fences();
}

TEST_F(PinnedPoolTest, OneFenceServesManyResults) {
  std::vector<Deleter> owners;
  for (int i = 0; i < 3000; ++i) owners.push_back(pool_->take(64).into_deleter());
  const size_t registered = stats().registered;
  for (const Deleter& deleter : owners) release(deleter);
  for (Deleter& deleter : owners) deleter = pool_->take(64).into_deleter();
  EXPECT_LE(fences_->taken, 8);
  EXPECT_EQ(stats().registered, registered);
  for (const Deleter& deleter : owners) release(deleter);
}

TEST_F(PinnedPoolTest, LargeResultsAreFencedEarly) {
  const PinnedBlock stock[] = {pool_->take(2 * kMiB), pool_->take(2 * kMiB), pool_->take(2 * kMiB)};
  fences_->hold_fences();
  std::optional<PinnedBlock> spare(pool_->take(2 * kMiB));
  drop_result(2 * kMiB);
  spare.reset();
  EXPECT_EQ(fences_->taken, 0);
  const PinnedBlock hit = pool_->take(2 * kMiB);  // stands ready, yet takes the fence for later
  EXPECT_EQ(fences_->taken, 1);
  fences_->pass_fences();
}

TEST_F(PinnedPoolTest, PollIfDueFencesLargeResults) {
  fences_->hold_fences();
  const Deleter small = pool_->take(64 * kKiB).into_deleter();
  const Deleter large = pool_->take(2 * kMiB).into_deleter();
  release(small);
  pool_->poll_if_due();
  EXPECT_EQ(fences_->taken, 0) << "not worth a call of CUDA";
  release(large);
  pool_->poll_if_due();
  EXPECT_EQ(fences_->taken, 1);
  pool_->poll_if_due();
  EXPECT_EQ(fences_->taken, 1);
  EXPECT_EQ(fences_->polls, 2);
  expect_bytes(0, 0, 2 * kMiB + 64 * kKiB, 0);
  fences_->pass_fences();
  pool_->poll_if_due();
  expect_bytes(0, 0, 0, 0);
  const int polls = fences_->polls;
  pool_->poll_if_due();
  EXPECT_EQ(fences_->polls, polls) << "nothing is left to ask for";
}

TEST_F(PinnedPoolTest, NoDeviceNeedsNoFence) {
  fences_->no_device = true;
  drop_result(20 * kMiB);
  pool_->poll();
  expect_bytes(0, 0, 0, 0);
  EXPECT_EQ(fences_->polls, 0);
}

TEST_F(PinnedPoolTest, ShortWaitAvoidsGrowth) {
  for (const size_t bytes : {size_t{8 * kMiB}, 20 * kMiB}) {
    PinnedBlock block = pool_->take(bytes);
    const std::byte* const place = block.data();
    const uint64_t grows = stats().grows;
    fences_->pass_fences_after(3);
    release(std::move(block).into_deleter());
    EXPECT_EQ(pool_->take(bytes).data(), place);
    EXPECT_EQ(stats().grows, grows);
  }
}

TEST_F(PinnedPoolTest, AddedTicketDelaysResult) {
  PooledEvent ticket = fences_->ticket();
  const cudaEvent_t event = ticket.get();
  PinnedBlock block = pool_->take(20 * kMiB);
  std::byte* const place = block.data();
  const Deleter deleter = std::move(block).into_deleter();
  EXPECT_TRUE(pool_->add_ticket(place + 12345, std::move(ticket)));
  release(deleter);
  pool_->poll();
  pool_->poll();
  expect_bytes(0, 0, 20 * kMiB, 0);
  EXPECT_NE(pool_->take(20 * kMiB).data(), place);
  pool_->trim(20 * kMiB);  // the other one
  fences_->pass(event);
  EXPECT_EQ(pool_->take(20 * kMiB).data(), place);
}

TEST_F(PinnedPoolTest, AddedTicketDelaysFreeAndRetire) {
  std::vector<cudaEvent_t> events;
  const auto take = [&] {
    PinnedBlock block = pool_->take(1024);
    PooledEvent ticket = fences_->ticket();
    events.push_back(ticket.get());
    EXPECT_TRUE(pool_->add_ticket(block.data(), std::move(ticket)));
    return block;
  };
  take();
  take().retire(fences_->passed_ticket());
  pool_->poll();
  expect_bytes(0, 2048, 0, 0);
  for (const cudaEvent_t event : events) fences_->pass(event);
  pool_->poll();
  expect_bytes(0, 0, 0, 0);
  free_block(1024);  // the tickets went with the use that they were for
  expect_bytes(0, 0, 0, 0);
}

TEST_F(PinnedPoolTest, RefusesTicketForUnheldMemory) {
  std::byte* const place = pool_->take(1024).data();
  EXPECT_FALSE(pool_->add_ticket(place, fences_->ticket()));
  std::byte other{};
  EXPECT_FALSE(pool_->add_ticket(&other, fences_->ticket()));
  drop_result(1024);
  EXPECT_FALSE(pool_->add_ticket(place, fences_->ticket()));
  pool_->poll();
  expect_bytes(0, 0, 0, 0);
}

TEST_F(PinnedPoolTest, FailedDeviceLeaksBlocks) {
  PooledEvent ticket = fences_->ticket();
  fences_->fail(ticket.get());
  PinnedBlock first = pool_->take(20 * kMiB);
  const std::byte* const retired = first.data();
  std::move(first).retire(std::move(ticket));
  fences_->fail_fences();
  PinnedBlock second = pool_->take(20 * kMiB);
  const std::byte* const result = second.data();
  expect_bytes(20 * kMiB, 0, 0, 20 * kMiB);
  release(std::move(second).into_deleter());
  pool_->poll();
  expect_bytes(0, 0, 0, 40 * kMiB);
  EXPECT_FALSE(pool_->holds(retired));
  const PinnedBlock third = pool_->take(20 * kMiB);
  EXPECT_TRUE(third.data() != retired && third.data() != result);
  EXPECT_EQ(pool_->trim(0), 0u);
}

// The fences of the other devices say nothing of the one that failed.
TEST_F(PinnedPoolTest, FailureLeaksHeldResults) {
  PinnedBlock ours = pool_->take(24 * kMiB);  // its operation knows what it did with it
  const Deleter held = pool_->take(20 * kMiB).into_deleter();
  drop_result(22 * kMiB);
  pool_->device_fails();
  release(held);
  ours = {};
  pool_->poll();
  expect_bytes(0, 0, 0, 42 * kMiB);
  drop_result(24 * kMiB);
  pool_->poll();
  expect_bytes(0, 0, 0, 42 * kMiB);
}

TEST_F(PinnedPoolTest, EndKeepsSuspectRegistered) {
  const Deleter before = pool_->take(20 * kMiB).into_deleter();
  pool_->device_fails();
  const Deleter after = pool_->take(30 * kMiB).into_deleter();
  pool_.reset();
  EXPECT_EQ(api_.registered(), 20 * kMiB);
  release(before);
  release(after);
}

TEST_F(PinnedPoolTest, FailedFenceLeaks) {
  fences_->fence_fails = true;
  for (int i = 0; i < 10; ++i) drop_result(64);
  pool_->poll();
  expect_bytes(0, 0, 0, 640);
}

TEST_F(PinnedPoolTest, CaptureDelaysFence) {
  fences_->capturing = true;
  const std::byte* const place = drop_result(20 * kMiB);
  pool_->poll();
  expect_bytes(0, 0, 20 * kMiB, 0);
  EXPECT_NE(pool_->take(20 * kMiB).data(), place);
  pool_->trim(20 * kMiB);  // the other one
  fences_->capturing = false;
  EXPECT_EQ(pool_->take(20 * kMiB).data(), place);
}

TEST_F(PinnedPoolTest, EndDuringCaptureKeepsHeld) {
  fences_->capturing = true;
  const PinnedBlock held = pool_->take(20 * kMiB);
  free_block(10 * kMiB);
  pool_.reset();
  EXPECT_EQ(api_.registered(), 20 * kMiB);
}

TEST_F(PinnedPoolTest, LeakedBlockIsCounted) {
  PinnedBlock block = pool_->take(kMiB);
  std::byte* const place = block.data();
  EXPECT_TRUE(pool_->add_ticket(place, fences_->ticket()));
  std::move(block).leak();
  expect_bytes(0, 0, 0, kMiB);
  pool_->trim(0);
  expect_bytes(0, 0, 0, kMiB);
  pool_.reset();
  EXPECT_TRUE(is_mapped(place));
  EXPECT_EQ(api_.registered(), 2 * kMiB);
}

TEST_F(PinnedPoolTest, CountsHitsAndMisses) {
  const PinnedBlock first = pool_->take(64);
  EXPECT_EQ(stats().misses, 1u);
  const PinnedBlock second = pool_->take(64);
  EXPECT_EQ(stats().hits, 1u);
  const PinnedBlock other = pool_->take(kMiB);
  EXPECT_EQ(stats().misses, 2u);
  EXPECT_EQ(stats().grows, 1u);
}

// ---- The limit

TEST_F(PinnedPoolTest, LimitRefusesTake) {
  pool_->set_limit(16 * kMiB);
  EXPECT_FALSE(pool_->take(16 * kMiB + 1));
  EXPECT_FALSE(pool_->take(SIZE_MAX));
  EXPECT_FALSE(pool_->take(SIZE_MAX - kMiB));
  const PinnedBlock block = pool_->take(10 * kMiB);
  EXPECT_TRUE(block);
  EXPECT_FALSE(pool_->take(8 * kMiB));
  EXPECT_EQ(stats().refused, 4u);
  EXPECT_EQ(stats().registered, 10 * kMiB);
  EXPECT_TRUE(pool_->take(6 * kMiB));
}

TEST_F(PinnedPoolTest, ZeroLimitRefusesTake) {
  pool_->set_limit(0);
  EXPECT_FALSE(pool_->take(1));
  pool_->set_limit(2 * kMiB - 1);
  EXPECT_FALSE(pool_->take(1));
  pool_->set_limit(2 * kMiB);
  EXPECT_TRUE(pool_->take(1));
}

TEST_F(PinnedPoolTest, EvictsLongestIdleFirst) {
  pool_->set_limit(60 * kMiB);
  const std::byte* places[3];
  {
    std::vector<PinnedBlock> blocks;
    for (const std::byte*& place : places) {
      blocks.push_back(pool_->take(20 * kMiB));
      place = blocks.back().data();
    }
    std::swap(blocks[0], blocks[1]);
    while (!blocks.empty()) blocks.erase(blocks.begin());  // 1, 0, 2
  }
  const PinnedBlock block = pool_->take(12 * kMiB);
  EXPECT_TRUE(block);
  EXPECT_EQ(stats().registered, 52 * kMiB);
  EXPECT_TRUE(is_mapped(places[0]));
  EXPECT_TRUE(is_mapped(places[2]));
  EXPECT_FALSE(is_mapped(places[1]) && block.data() != places[1]);
}

TEST_F(PinnedPoolTest, EvictsThreadCaches) {
  pool_->set_limit(32 * kMiB);
  free_block(64);  // stays with this thread
  EXPECT_TRUE(pool_->take(32 * kMiB));
  EXPECT_EQ(stats().registered, 32 * kMiB);
}

TEST_F(PinnedPoolTest, ARefusalTrimsNothing) {
  pool_->set_limit(40 * kMiB);
  const PinnedBlock held = pool_->take(20 * kMiB);
  free_block(10 * kMiB);
  const size_t calls = api_.calls();
  EXPECT_FALSE(pool_->take(30 * kMiB));
  EXPECT_EQ(stats().registered, 30 * kMiB);
  EXPECT_EQ(api_.calls(), calls);
}

TEST_F(PinnedPoolTest, LowerLimitTrims) {
  std::optional<PinnedBlock> held(pool_->take(20 * kMiB));
  free_block(30 * kMiB);
  pool_->set_limit(10 * kMiB);
  EXPECT_EQ(stats().registered, 20 * kMiB);
  EXPECT_EQ(stats().limit, 10 * kMiB);
  EXPECT_FALSE(pool_->take(64));
  held.reset();
  EXPECT_TRUE(pool_->take(64));
  EXPECT_EQ(stats().registered, 2 * kMiB);
}

TEST_F(PinnedPoolTest, TrimKeepsUsedMemory) {
  fences_->hold_fences();
  const PinnedBlock owned = pool_->take(10 * kMiB);
  const Deleter result = pool_->take(14 * kMiB).into_deleter();
  PinnedBlock lost = pool_->take(16 * kMiB);
  std::optional<PinnedBlock> free(pool_->take(18 * kMiB));
  const cudaEvent_t event = retire(12 * kMiB).event;
  free.reset();
  release(result);
  std::move(lost).leak();
  EXPECT_EQ(pool_->trim(0), 18 * kMiB);
  expect_bytes(10 * kMiB, 12 * kMiB, 14 * kMiB, 16 * kMiB);
  EXPECT_EQ(stats().registered, 52 * kMiB);
  EXPECT_EQ(pool_->trim(0), 0u);
  fences_->pass(event);
  pool_->poll();
  fences_->pass_fences();
  EXPECT_EQ(pool_->trim(42 * kMiB), 12 * kMiB);  // the longest idle, and no more than asked
  EXPECT_EQ(pool_->trim(0), 14 * kMiB);
}

// ---- Failures

TEST_F(PinnedPoolTest, FailedRegisterRetriesAfterTrim) {
  free_block(20 * kMiB);
  api_.fail_at(1, cudaErrorMemoryAllocation);
  const PinnedBlock block = pool_->take(64 * kMiB);
  EXPECT_TRUE(block);
  EXPECT_EQ(stats().registered, 64 * kMiB);
}

TEST_F(PinnedPoolTest, SecondRegisterFailureThrows) {
  const PinnedBlock held = pool_->take(20 * kMiB);
  for (const size_t bytes : {size_t{1}, 64 * kMiB}) {
    api_.fail_at(1, cudaErrorMemoryAllocation, 2);
    expect_error(ErrorCode::out_of_memory, [&] { pool_->take(bytes); });
    EXPECT_EQ(stats().registered, 20 * kMiB);
    EXPECT_TRUE(pool_->take(bytes));  // nothing of the budget was lost
    pool_->trim(0);
  }
}

TEST_F(PinnedPoolTest, DeadDeviceIsNotRetried) {
  const size_t calls = api_.calls();
  api_.fail_at(1, cudaErrorIllegalAddress);
  expect_error(ErrorCode::device_failed, [&] { pool_->take(64); });
  EXPECT_EQ(api_.calls(), calls + 1);
  EXPECT_TRUE(pool_->take(64));
}

TEST_F(PinnedPoolTest, AddressSpaceEndThrows) {
  pool_->set_limit(SIZE_MAX);
  const PinnedBlock held = pool_->take(10 * kMiB);
  free_block(20 * kMiB);
  expect_error(ErrorCode::out_of_memory, [&] { pool_->take(size_t{1} << 50); });
  EXPECT_EQ(stats().registered, 10 * kMiB);
  expect_bytes(10 * kMiB, 0, 0, 0);
  EXPECT_TRUE(pool_->take(20 * kMiB));
}

TEST_F(PinnedPoolTest, FailedRollbackLeaks) {
  pool_.emplace(api_.table(), *fences_, 64 * kMiB, 8 * kMiB);
  api_.fail_at(3, cudaErrorIllegalAddress, 2);  // the third piece, and undoing the first
  expect_error(ErrorCode::device_failed, [&] { pool_->take(30 * kMiB); });
  expect_bytes(0, 0, 0, 8 * kMiB);
  const PinnedBlock block = pool_->take(56 * kMiB);
  EXPECT_TRUE(block);
  EXPECT_FALSE(pool_->take(1));
}

TEST_F(PinnedPoolTest, FailedUnregisterLeaks) {
  free_block(20 * kMiB);
  api_.fail_at(1, cudaErrorUnknown);
  EXPECT_EQ(pool_->trim(0), 0u);
  expect_bytes(0, 0, 0, 20 * kMiB);
}

// Everything that a pool does, with the n-th call failing, for all n.
TEST(PinnedPoolFailures, EveryCallFailureIsCounted) {
  for (const size_t failures : {size_t{1}, size_t{2}, size_t{3}}) {
    size_t n = 1;
    for (bool failed = true; failed; ++n) {
      ASSERT_LT(n, 1000u);
      CountingApi api;
      TestFences fences(api);
      std::vector<Deleter> owners;
      size_t leaked = 0;
      {
        PinnedPool pool(api.table(), fences, 24 * kMiB);
        api.fail_at(n, cudaErrorMemoryAllocation, failures);
        const auto attempt = [](const auto& action) {
          try {
            action();
          } catch (const Error&) {
          }
        };
        for (const size_t bytes : {size_t{64}, 8 * kMiB, 10 * kMiB, 12 * kMiB, 18 * kMiB}) {
          attempt([&] {
            PinnedBlock a = pool.take(bytes);
            PinnedBlock b = pool.take(bytes);
            if (a) std::move(a).retire(fences.passed_ticket());
            if (b) owners.push_back(std::move(b).into_deleter());
          });
          expect_consistent(pool.stats());
          EXPECT_EQ(pool.stats().registered, api.registered());
          if (owners.size() > 1) {
            release(owners.back());
            owners.pop_back();
          }
          attempt([&] { pool.trim(10 * kMiB); });
        }
        for (const Deleter& deleter : owners) release(deleter);
        failed = api.calls() >= n;
        api.fail_never();
        pool.trim(0);
        const PinnedStats stats = pool.stats();
        expect_consistent(stats);
        EXPECT_EQ(stats.free + stats.owned + stats.in_flight + stats.quarantined, 0u);
        leaked = stats.leaked;
        EXPECT_EQ(CountingApi::last_error(), cudaSuccess);
      }
      EXPECT_EQ(api.registered(), leaked) << n;
      EXPECT_LE(leaked, failures * 18 * kMiB);
    }
    EXPECT_GT(n, 10u);
  }
}

TEST_F(PinnedPoolTest, HoldsNoLockInCuda) {
  std::atomic<int> looks{0};
  thread_local bool inside = false;
  api_.on_call = [&] {
    if (inside) return;
    inside = true;
    std::promise<void> looked;
    auto done = looked.get_future();
    std::thread other([&] {
      pool_->stats();  // takes every lock
      looked.set_value();
    });
    EXPECT_EQ(done.wait_for(std::chrono::seconds(5)), std::future_status::ready);
    other.join();
    ++looks;
    inside = false;
  };
  fences_->hold_fences();
  free_block(64);
  drop_result(64);
  drop_result(20 * kMiB);
  pool_->poll_if_due();
  pool_->take(20 * kMiB).retire(fences_->passed_ticket());
  pool_->poll();
  fences_->pass_fences();
  pool_->trim(0);
  EXPECT_TRUE(pool_->take(20 * kMiB));
  api_.fail_at(1, cudaErrorMemoryAllocation);
  EXPECT_TRUE(pool_->take(40 * kMiB));
  pool_->set_limit(0);
  EXPECT_GE(looks, 13);
  api_.on_call = nullptr;
}

// ---- The end

TEST_F(PinnedPoolTest, TheEndGivesEverythingBack) {
  drop_result(64);
  pool_->take(kMiB).retire(fences_->passed_ticket());
  const std::byte* const place = pool_->take(20 * kMiB).data();
  pool_.reset();
  EXPECT_EQ(api_.registered(), 0u);
  EXPECT_FALSE(is_mapped(place));
}

TEST_F(PinnedPoolTest, ResultsOutliveThePool) {
  for (const size_t bytes : {size_t{64}, 20 * kMiB}) {
    CountingApi::last_error() = cudaSuccess;
    if (!pool_) pool_.emplace(api_.table(), *fences_, 256 * kMiB);
    std::vector<Deleter> owners;
    std::vector<std::byte*> places;
    for (int i = 0; i < 3; ++i) {
      PinnedBlock block = pool_->take(bytes);
      std::memset(block.data(), 0x40 + i, bytes);
      places.push_back(block.data());
      owners.push_back(std::move(block).into_deleter());
    }
    pool_.reset();
    EXPECT_EQ(api_.registered(), 0u);  // the memory is ordinary now
    const size_t calls = api_.calls();
    const int taken = fences_->taken;
    for (int i = 0; i < 3; ++i) {
      for (size_t at = 0; at < bytes; at += 63)
        ASSERT_EQ(places[static_cast<size_t>(i)][at], static_cast<std::byte>(0x40 + i));
    }
    std::thread([&] { release(owners[1]); }).join();
    release(owners[0]);
    EXPECT_TRUE(is_mapped(places[2]));
    std::memset(places[2], 1, bytes);
    release(owners[2]);
    for (const std::byte* place : places) EXPECT_FALSE(is_mapped(place));
    EXPECT_EQ(api_.calls(), calls);
    EXPECT_EQ(fences_->taken, taken);
  }
}

TEST_F(PinnedPoolTest, BlocksOutliveThePool) {
  PinnedBlock small = pool_->take(64);
  PinnedBlock large = pool_->take(20 * kMiB);
  PinnedBlock retired = pool_->take(10 * kMiB);
  const std::byte* const places[] = {small.data(), large.data(), retired.data()};
  pool_.reset();
  small = PinnedBlock();
  large = PinnedBlock();
  EXPECT_FALSE(is_mapped(places[0]));
  EXPECT_FALSE(is_mapped(places[1]));
  // Too late for a ticket: it is not polled. The memory stays.
  std::move(retired).retire(fences_->ticket());
  EXPECT_TRUE(is_mapped(places[2]));
}

TEST_F(PinnedPoolTest, EndWaitsForFencesAndTickets) {
  fences_->hold_fences();
  PooledEvent ticket = fences_->ticket();
  const cudaEvent_t event = ticket.get();
  PinnedBlock held = pool_->take(20 * kMiB);
  EXPECT_TRUE(pool_->add_ticket(held.data(), std::move(ticket)));
  const Deleter deleter = std::move(held).into_deleter();
  drop_result(10 * kMiB);
  std::atomic<bool> passed{false};
  api_.on_call = [&] { EXPECT_TRUE(passed || api_.registered() == 30 * kMiB); };
  std::thread device([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(api_.registered(), 30 * kMiB);
    passed = true;
    fences_->pass(event);
    fences_->pass_fences();
  });
  pool_.reset();
  device.join();
  EXPECT_TRUE(passed);
  EXPECT_EQ(api_.registered(), 0u);
  api_.on_call = nullptr;
  release(deleter);
}

TEST_F(PinnedPoolTest, EndWaitIsBounded) {
  fences_->hold_fences();
  const std::byte* const place = retire(10 * kMiB).place;
  PinnedBlock held = pool_->take(20 * kMiB);
  const std::byte* const held_place = held.data();
  free_block(30 * kMiB);
  pool_.reset();
  EXPECT_EQ(api_.registered(), 30 * kMiB);  // what something may still write to
  EXPECT_TRUE(is_mapped(place));
  held = PinnedBlock();
  EXPECT_TRUE(is_mapped(held_place));
}

TEST_F(PinnedPoolTest, EndKeepsDeadDevicesMemory) {
  fences_->fail_fences();
  PinnedBlock held = pool_->take(20 * kMiB);
  const std::byte* const place = held.data();
  const Deleter deleter = std::move(held).into_deleter();
  free_block(30 * kMiB);
  pool_.reset();
  EXPECT_EQ(api_.registered(), 20 * kMiB);
  release(deleter);
  EXPECT_TRUE(is_mapped(place));
}

// ---- Fork

// Runs `child` in a fork; its exit status, or -1 where it did not end by itself within ten seconds.
template <typename Child>
int in_a_fork(const Child& child) {
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(10);
    _exit(child());
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(PinnedPoolTest, ForkedChildIsRefused) {
  PinnedBlock block = pool_->take(64);
  std::memset(block.data(), 0x33, 64);
  PinnedBlock second = pool_->take(64);
  PinnedBlock third = pool_->take(20 * kMiB);
  PinnedBlock fourth = pool_->take(20 * kMiB);
  const Deleter deleter = pool_->take(kMiB).into_deleter();
  const std::byte* const place = block.data();
  const size_t calls = api_.calls();
  const auto child = [&] {
    const auto error = error_of([&] { pool_->take(64); });
    if (!error || error->code() != ErrorCode::after_fork) return 1;
    if (!error_of([&] { pool_->take(20 * kMiB); })) return 2;
    if (block.data()[63] != std::byte{0x33}) return 3;
    release(deleter);
    second = PinnedBlock();
    third = PinnedBlock();
    std::move(fourth).retire(fences_->passed_ticket());
    const PinnedStats stats = pool_->stats();
    if (stats.leaked != kMiB + 64 + 40 * kMiB) return 4;
    if (stats.free + stats.owned + stats.leaked != stats.registered) return 5;
    if (pool_->trim(0) != 0 || pool_->holds(place) || pool_->bytes_to_seam(place) != 0) return 6;
    if (pool_->add_ticket(place, PooledEvent())) return 7;
    pool_->set_limit(0);
    pool_->poll();
    if (fences_->taken != 0) return 8;
    pool_.reset();
    block = PinnedBlock();
    return is_mapped(place) && api_.calls() == calls + 1 ? 0 : 9;  // the ticket's event
  };
  EXPECT_EQ(in_a_fork(child), 0);
  EXPECT_EQ(stats().leaked, 0u);
  release(deleter);
  EXPECT_TRUE(pool_->take(64));
}

TEST_F(PinnedPoolTest, ForkedChildTakesNoLocks) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        drop_result(100 * kKiB);
        pool_->stats();
      }
    });
  }
  for (int i = 0; i < 30; ++i) {
    PinnedBlock block = pool_->take(100 * kKiB);
    const Deleter deleter = pool_->take(64).into_deleter();
    const auto child = [&] {
      release(deleter);
      block = PinnedBlock();
      pool_->stats();
      return error_of([&] { pool_->take(64); }) ? 0 : 1;
    };
    ASSERT_EQ(in_a_fork(child), 0);
    release(deleter);
  }
  stop = true;
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace dlbridge::cuda
