// SPDX-License-Identifier: Apache-2.0
// PinnedPool, one thread: sizes, states, tickets, fences, the limit, reservations, failures, fork.
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
      : fences_(std::in_place, api_),
        pool_(std::in_place, api_.table(), std::ref(*fences_), limit) {}

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
    CUevent event;
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

TEST(PinnedSizes, WasteAtMostAQuarter) {
  for (size_t bytes = 1; bytes <= 8 * kMiB; bytes += 1 + bytes / 100) {
    const size_t capacity = pinned::capacity_for(bytes);
    ASSERT_GE(capacity, bytes);
    ASSERT_LE(capacity, std::max<size_t>(256, bytes + bytes / 4)) << bytes;
    EXPECT_EQ(pinned::capacity_for(capacity), capacity);
    EXPECT_EQ(pinned::served_by(capacity), capacity);
    EXPECT_LT(pinned::served_by(capacity - 1), capacity);
    EXPECT_EQ(capacity % 64, 0u);
  }
  constexpr size_t kFour = size_t{4} << 30;
  EXPECT_EQ(pinned::capacity_for(kFour), kFour);
  EXPECT_EQ(pinned::capacity_for(kFour + 1), kFour + 2 * kMiB);
  EXPECT_EQ(pinned::capacity_for(8 * kMiB + 1), 10 * kMiB);
  EXPECT_EQ(pinned::served_by(9 * kMiB), 8 * kMiB);
  EXPECT_EQ(pinned::capacity_for(SIZE_MAX), SIZE_MAX);
}

TEST_F(PinnedPoolTest, BlockSizeAndAlignment) {
  for (const size_t bytes : {size_t{1}, size_t{256}, size_t{257}, 3 * kKiB, 4 * kKiB + 1, 64 * kKiB,
                             64 * kKiB + 1, kMiB, 5 * kMiB, 8 * kMiB, 8 * kMiB + 1, 33 * kMiB}) {
    const PinnedBlock block = pool_->take(bytes);
    ASSERT_TRUE(block) << bytes;
    EXPECT_EQ(block.size(), pinned::capacity_for(bytes));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block.data()) % 64, 0u);
    std::memset(block.data(), 0xab, block.size());
  }
}

TEST_F(PinnedPoolTest, EmptyBlockIsValid) {
  PinnedBlock block = pool_->take(0);
  ASSERT_TRUE(block);
  EXPECT_NE(block.data(), nullptr);
}

TEST_F(PinnedPoolTest, SmallBlocksShareSegments) {
  std::vector<PinnedBlock> blocks;
  for (int i = 0; i < 100; ++i) blocks.push_back(pool_->take(4 * kKiB));
  blocks.push_back(pool_->take(kMiB));
  EXPECT_EQ(stats().grows, 1u);
  EXPECT_EQ(stats().registered, 2 * kMiB);
}

TEST_F(PinnedPoolTest, NeighboursMerge) {
  {
    std::vector<PinnedBlock> blocks;
    for (int i = 0; i < 32; ++i) blocks.push_back(pool_->take(64 * kKiB));
    EXPECT_EQ(stats().free, 0u);
  }
  EXPECT_TRUE(pool_->take(2 * kMiB));
  EXPECT_EQ(stats().grows, 1u);
  // Held ones are no neighbours.
  std::vector<PinnedBlock> blocks;
  for (int i = 0; i < 32; ++i) blocks.push_back(pool_->take(64 * kKiB));
  for (size_t i = 0; i < 32; i += 2) blocks[i] = {};
  EXPECT_TRUE(pool_->take(128 * kKiB));
  EXPECT_EQ(stats().grows, 2u);
}

TEST_F(PinnedPoolTest, ReusesSlightlyLargerBlock) {
  const std::byte* const place = pool_->take(20 * kMiB).data();
  EXPECT_EQ(pool_->take(16 * kMiB).data(), place);
  EXPECT_NE(pool_->take(14 * kMiB).data(), place);
}

// Otherwise its next use would need another one.
TEST_F(PinnedPoolTest, LargeBlockIsCutAtTheLimitOnly) {
  const std::byte* const place = pool_->take(20 * kMiB).data();
  const PinnedBlock small = pool_->take(64);
  EXPECT_EQ(pool_->take(20 * kMiB).data(), place);
  EXPECT_EQ(stats().registered, 22 * kMiB);
  pool_->set_limit(22 * kMiB);
  std::vector<PinnedBlock> blocks;
  for (int i = 0; i < 5; ++i) blocks.push_back(pool_->take(4 * kMiB));
  for (const PinnedBlock& block : blocks) EXPECT_TRUE(block);
  blocks.clear();
  EXPECT_EQ(pool_->take(20 * kMiB).data(), place);
  EXPECT_EQ(stats().refused, 0u);
  pool_->set_limit(256 * kMiB);
  EXPECT_NE(pool_->take(4 * kMiB).data(), place) << "it is whole again";
}

TEST_F(PinnedPoolTest, BlockFitsOnePiece) {
  pool_.emplace(api_.table(), std::ref(*fences_), 256 * kMiB, 8 * kMiB);
  pool_->reserve(64 * kMiB);
  const auto fits = [&](const PinnedBlock& block) {
    return pool_->bytes_to_seam(block.data()) >= block.size();
  };
  for (int round = 0; round < 2; ++round) {
    std::vector<PinnedBlock> blocks;
    for (const size_t bytes : {3 * kMiB, 3 * kMiB, 5 * kMiB, 100 * kKiB, 7 * kMiB, 8 * kMiB}) {
      blocks.push_back(pool_->take(bytes));
      EXPECT_TRUE(fits(blocks.back())) << bytes;
    }
    const PinnedBlock large = pool_->take(20 * kMiB);  // larger than a piece: it has to cross
    EXPECT_FALSE(fits(large));
    EXPECT_EQ(stats().registered, 64 * kMiB);
  }
  std::vector<PinnedBlock> blocks;
  for (int i = 0; i < 16; ++i) {
    blocks.push_back(pool_->take(3 * kMiB));
    EXPECT_TRUE(fits(blocks.back())) << i;
  }
  // One block stays in every piece: between two of them 11 MiB are free.
  for (size_t i = 1; i < 16; i += 2) blocks[i] = {};
  EXPECT_TRUE(fits(pool_->take(5 * kMiB)));
  EXPECT_TRUE(fits(pool_->take(7 * kMiB)));
  EXPECT_EQ(stats().registered, 72 * kMiB);
}

// ---- States

TEST_F(PinnedPoolTest, KnowsWhichAddressesAreHeld) {
  const PinnedBlock small = pool_->take(256);
  PinnedBlock large = pool_->take(20 * kMiB);
  std::byte* const place = large.data();
  std::byte other{};
  for (const std::byte* address : {small.data(), small.data() + 255, place, place + 20 * kMiB - 1})
    EXPECT_TRUE(pool_->holds(address));
  for (const std::byte* address : {small.data() + 256, place + 20 * kMiB, &other})
    EXPECT_FALSE(pool_->holds(address));
  large = {};
  EXPECT_FALSE(pool_->holds(place));
}

TEST_F(PinnedPoolTest, MovedBlockFreesOnce) {
  PinnedBlock first = pool_->take(kMiB);
  PinnedBlock second = std::move(first);
  EXPECT_FALSE(first);  // NOLINT: what a move leaves is part of the promise
  first = std::move(second);
  expect_bytes(kMiB, 0, 0, 0);
  first = pool_->take(512);
  expect_bytes(512, 0, 0, 0);
}

// Rule: 41
TEST_F(PinnedPoolTest, RetiredBlockWaitsForTickets) {
  PooledEvent first = fences_->ticket();
  PooledEvent second = fences_->ticket();
  const CUevent events[] = {first.get(), second.get()};
  PinnedBlock block = pool_->take(20 * kMiB);
  const std::byte* const place = block.data();
  EXPECT_TRUE(pool_->add_ticket(place, std::move(first)));
  std::move(block).retire(std::move(second));
  for (const CUevent event : events) {
    pool_->poll();
    expect_bytes(0, 20 * kMiB, 0, 0);
    fences_->pass(event);
  }
  EXPECT_EQ(pool_->take(20 * kMiB).data(), place);  // it polls by itself
}

TEST_F(PinnedPoolTest, RetiringWithoutTicketsFrees) {
  pool_->take(64).retire(PooledEvent());
  expect_bytes(0, 0, 0, 0);
}

TEST_F(PinnedPoolTest, StuckTicketsBlockNoOther) {
  std::vector<CUevent> stuck;
  for (int i = 0; i < 300; ++i) stuck.push_back(retire(64).event);
  const Retired last = retire(20 * kMiB);
  fences_->pass(last.event);
  EXPECT_EQ(pool_->take(20 * kMiB).data(), last.place);
  for (const CUevent event : stuck) fences_->pass(event);
}

TEST_F(PinnedPoolTest, ReleaseCallsNoCuda) {
  for (const size_t bytes : {size_t{4}, kMiB, 20 * kMiB}) {
    PinnedBlock block = pool_->take(bytes);
    const size_t capacity = block.size();
    const Deleter deleter = std::move(block).into_deleter();
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
  for (const size_t bytes : {size_t{256}, 20 * kMiB}) {
    const std::byte* const place = drop_result(bytes);
    std::vector<PinnedBlock> others;
    for (int i = 0; i < (bytes == 256 ? 9000 : 3); ++i) {
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
  for (const Deleter& deleter : owners) release(deleter);
  pool_->poll();
  EXPECT_EQ(fences_->taken, 1);
  expect_bytes(0, 0, 0, 0);
}

// A take that finds a free block calls nothing, whatever waits.
TEST_F(PinnedPoolTest, HitCallsNoCuda) {
  {
    const PinnedBlock stock[] = {pool_->take(2 * kMiB), pool_->take(2 * kMiB)};
  }
  drop_result(2 * kMiB);
  const size_t calls = api_.calls();
  EXPECT_TRUE(pool_->take(2 * kMiB));
  EXPECT_EQ(api_.calls(), calls);
  EXPECT_EQ(fences_->taken, 0);
}

TEST_F(PinnedPoolTest, PollIfDueFencesLargeResults) {
  fences_->hold_fences();
  const Deleter small = pool_->take(64 * kKiB).into_deleter();
  const Deleter large = pool_->take(2 * kMiB).into_deleter();
  const CUevent ticket = retire(64).event;
  fences_->polls = 0;
  release(small);
  pool_->poll_if_due();
  EXPECT_EQ(fences_->taken, 0) << "not worth a call of CUDA";
  release(large);
  pool_->poll_if_due();
  pool_->poll_if_due();
  EXPECT_EQ(fences_->taken, 1);
  EXPECT_EQ(fences_->polls, 2) << "of the fence alone: takes poll the tickets";
  fences_->pass_fences();
  fences_->pass(ticket);
  pool_->poll_if_due();
  expect_bytes(0, 256, 0, 0);
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

TEST_F(PinnedPoolTest, AddedTicketDelaysResult) {
  PooledEvent ticket = fences_->ticket();
  const CUevent event = ticket.get();
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
  std::vector<CUevent> events;
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
  for (const CUevent event : events) fences_->pass(event);
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
}

TEST_F(PinnedPoolTest, FailedDeviceLeaksBlocks) {
  PooledEvent ticket = fences_->ticket();
  fences_->fail(ticket.get());
  PinnedBlock first = pool_->take(20 * kMiB);
  const std::byte* const retired = first.data();
  std::move(first).retire(std::move(ticket));
  fences_->fail_fences();
  const std::byte* const result = drop_result(20 * kMiB);
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

TEST_F(PinnedPoolTest, FailedFenceIsTriedAgain) {
  fences_->fence_fails = true;
  for (int i = 0; i < 10; ++i) drop_result(256);
  pool_->poll();
  expect_bytes(0, 0, 2560, 0);
  fences_->fence_fails = false;
  pool_->poll();
  expect_bytes(0, 0, 0, 0);
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

TEST_F(PinnedPoolTest, LeakedBlockIsCounted) {
  PinnedBlock block = pool_->take(kMiB);
  EXPECT_TRUE(pool_->add_ticket(block.data(), fences_->ticket()));
  std::move(block).leak();
  pool_->trim(0);
  expect_bytes(0, 0, 0, kMiB);
}

// A poll takes what waits out of its lists; a take meanwhile must not miss it.
TEST_F(PinnedPoolTest, ConcurrentPollHidesNothing) {
  pool_->set_limit(20 * kMiB);
  const Retired retired = retire(20 * kMiB);
  fences_->pass(retired.event);
  std::atomic<bool> polling{false};
  std::atomic<bool> taken{false};
  api_.on_call = [&] {
    if (polling.exchange(true)) return;
    // A take that does not wait for this poll comes to its end meanwhile.
    for (int i = 0; i < 100 && !taken; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  std::thread other([&] { pool_->poll(); });
  while (!polling) std::this_thread::yield();
  const PinnedBlock block = pool_->take(20 * kMiB);
  taken = true;
  other.join();
  api_.on_call = nullptr;
  EXPECT_EQ(block.data(), retired.place);
}

// ---- The limit

TEST_F(PinnedPoolTest, CountsHitsAndMisses) {
  const PinnedBlock first = pool_->take(64);
  EXPECT_EQ(stats().misses, 1u);
  const PinnedBlock second = pool_->take(64);
  EXPECT_EQ(stats().hits, 1u);
  const PinnedBlock other = pool_->take(20 * kMiB);
  EXPECT_EQ(stats().misses, 2u);
  EXPECT_EQ(stats().grows, 2u);
}

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
  EXPECT_TRUE(stats().has_room_for(6 * kMiB));
  EXPECT_FALSE(stats().has_room_for(6 * kMiB + 1));
  EXPECT_TRUE(pool_->take(6 * kMiB));
  pool_->set_limit(0);
  EXPECT_FALSE(pool_->take(12 * kMiB));
}

// cuMemHostUnregister may wait for running kernels.
TEST_F(PinnedPoolTest, RefusedTakeUnregistersNothing) {
  pool_->set_limit(40 * kMiB);
  free_block(20 * kMiB);
  free_block(12 * kMiB);
  const size_t calls = api_.calls();
  EXPECT_FALSE(pool_->take(26 * kMiB));
  EXPECT_EQ(api_.calls(), calls);
  EXPECT_EQ(stats().registered, 32 * kMiB);
  pool_->tidy(PinnedPool::Clock::time_point::min());  // makes room for what was refused
  EXPECT_EQ(stats().registered, 12 * kMiB);
  EXPECT_TRUE(pool_->take(26 * kMiB));
}

// The block that was missing may be free before the thread makes room for another one.
TEST_F(PinnedPoolTest, RoomIsMadeForWhatIsStillMissing) {
  pool_->set_limit(40 * kMiB);
  {
    const PinnedBlock held = pool_->take(26 * kMiB);
    EXPECT_FALSE(pool_->take(26 * kMiB));
  }
  pool_->tidy(PinnedPool::Clock::time_point::min());
  EXPECT_EQ(stats().registered, 26 * kMiB);
  EXPECT_TRUE(pool_->take(26 * kMiB));
}

TEST_F(PinnedPoolTest, WaitsForBlocksAtTheLimitOnly) {
  const auto drop_slowly = [&] {
    PinnedBlock block = pool_->take(20 * kMiB);
    const std::byte* const place = block.data();
    fences_->pass_fences_after(2);
    release(std::move(block).into_deleter());
    return place;
  };
  const std::byte* place = drop_slowly();
  EXPECT_NE(pool_->take(20 * kMiB).data(), place);
  EXPECT_EQ(stats().registered, 40 * kMiB);
  fences_->pass_fences();
  pool_->trim(20 * kMiB);
  pool_->set_limit(20 * kMiB);
  place = drop_slowly();
  EXPECT_EQ(pool_->take(20 * kMiB).data(), place);
  EXPECT_EQ(stats().refused, 0u);
}

TEST_F(PinnedPoolTest, LowerLimitTrims) {
  std::optional<PinnedBlock> held(pool_->take(20 * kMiB));
  free_block(30 * kMiB);
  pool_->set_limit(10 * kMiB);
  EXPECT_EQ(stats().registered, 20 * kMiB);
  EXPECT_EQ(stats().limit, 10 * kMiB);
  EXPECT_FALSE(pool_->take(64));
}

TEST_F(PinnedPoolTest, TrimKeepsUsedMemory) {
  fences_->hold_fences();
  const PinnedBlock owned = pool_->take(10 * kMiB);
  const Deleter result = pool_->take(14 * kMiB).into_deleter();
  PinnedBlock lost = pool_->take(16 * kMiB);
  std::optional<PinnedBlock> free(pool_->take(18 * kMiB));
  const CUevent event = retire(12 * kMiB).event;
  free.reset();
  release(result);
  std::move(lost).leak();
  EXPECT_EQ(pool_->trim(0), 18 * kMiB);
  expect_bytes(10 * kMiB, 12 * kMiB, 14 * kMiB, 16 * kMiB);
  EXPECT_EQ(pool_->trim(0), 0u);
  fences_->pass(event);
  pool_->poll();
  fences_->pass_fences();
  EXPECT_EQ(pool_->trim(42 * kMiB), 12 * kMiB);  // the longest idle, and no more than asked
  EXPECT_EQ(pool_->trim(0), 14 * kMiB);
}

TEST_F(PinnedPoolTest, TidyUnregistersIdleMemory) {
  free_block(20 * kMiB);
  free_block(64);
  const auto then = PinnedPool::Clock::now();
  pool_->tidy(then - std::chrono::hours(1));
  EXPECT_EQ(stats().registered, 22 * kMiB);
  const PinnedBlock used = pool_->take(20 * kMiB);
  pool_->reserve(10 * kMiB);
  pool_->tidy(then + std::chrono::hours(1));
  EXPECT_EQ(stats().registered, 30 * kMiB) << "used and reserved memory stays";
}

TEST_F(PinnedPoolTest, ThreadUnregistersIdleMemory) {
  pool_.emplace(api_.table(), std::ref(*fences_), 256 * kMiB, PinnedSegment::kPieceBytes,
                std::chrono::milliseconds(1));
  drop_result(20 * kMiB);
  // Not stats(), which compares two figures: the thread changes them.
  while (pool_->stats().registered > 0) std::this_thread::yield();
  pool_->stop(std::chrono::seconds(10));
  free_block(20 * kMiB);
  pool_->stop(std::chrono::seconds(10));
  EXPECT_EQ(stats().registered, 20 * kMiB);
}

// ---- Reservations

TEST_F(PinnedPoolTest, ReservedMemoryServesEverySize) {
  pool_->reserve(64 * kMiB);
  std::vector<PinnedBlock> blocks;
  for (const size_t bytes : {size_t{1}, kMiB, 8 * kMiB, 20 * kMiB, 30 * kMiB})
    blocks.push_back(pool_->take(bytes));
  EXPECT_EQ(stats().registered, 64 * kMiB);
  EXPECT_EQ(stats().grows, 1u);
  blocks.clear();
  EXPECT_TRUE(pool_->take(64 * kMiB)) << "free neighbours are one block again";
  EXPECT_EQ(stats().grows, 1u);
  EXPECT_EQ(pool_->trim(0), 64 * kMiB);
}

TEST_F(PinnedPoolTest, ReservationIsUsableWhileItGrows) {
  pool_.emplace(api_.table(), std::ref(*fences_), 256 * kMiB, 8 * kMiB);
  std::vector<PinnedBlock> blocks;
  api_.on_call = [&] {
    const PinnedStats now = pool_->stats();
    if (now.registered >= 16 * kMiB && blocks.empty()) blocks.push_back(pool_->take(8 * kMiB));
    EXPECT_FALSE(blocks.empty() && now.registered > 16 * kMiB);
  };
  pool_->reserve(40 * kMiB);
  api_.on_call = nullptr;
  ASSERT_EQ(blocks.size(), 1u);
  EXPECT_TRUE(blocks[0]);
  EXPECT_EQ(stats().registered, 40 * kMiB);
  EXPECT_EQ(api_.pieces().size(), 5u);
}

TEST_F(PinnedPoolTest, ReservationStaysBelowTheLimit) {
  pool_->set_limit(32 * kMiB);
  const PinnedBlock held = pool_->take(20 * kMiB);
  const auto error = error_of([&] { pool_->reserve(13 * kMiB); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), ErrorCode::out_of_memory);
  EXPECT_NE(std::strstr(error->what(), "set_pinned_limit"), nullptr) << error->what();
  EXPECT_EQ(stats().registered, 20 * kMiB);
  pool_->reserve(12 * kMiB);
}

TEST_F(PinnedPoolTest, RefusedReservationKeepsItsPieces) {
  pool_.emplace(api_.table(), std::ref(*fences_), 256 * kMiB, 8 * kMiB);
  api_.fail_at(3, CUDA_ERROR_OUT_OF_MEMORY);
  expect_error(ErrorCode::out_of_memory, [&] { pool_->reserve(40 * kMiB); });
  EXPECT_EQ(stats().registered, 16 * kMiB);
  EXPECT_EQ(stats().limit, 16 * kMiB);
  EXPECT_TRUE(pool_->take(16 * kMiB));
  EXPECT_EQ(pool_->trim(0), 16 * kMiB);
}

TEST_F(PinnedPoolTest, StopEndsAReservation) {
  pool_.emplace(api_.table(), std::ref(*fences_), 256 * kMiB, 8 * kMiB);
  api_.on_call = [&] {
    api_.on_call = nullptr;
    pool_->stop({});
  };
  expect_error(ErrorCode::out_of_memory, [&] { pool_->reserve(40 * kMiB); });
  EXPECT_EQ(stats().registered, 8 * kMiB);
  EXPECT_EQ(stats().register_failed, 0u);
}

// ---- Failures

// In containers and virtual machines with a cap, asking again would only take time.
TEST_F(PinnedPoolTest, RefusedRegistrationLowersTheLimit) {
  const PinnedBlock held = pool_->take(20 * kMiB);
  api_.fail_at(1, CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_FALSE(pool_->take(64 * kMiB));
  EXPECT_EQ(stats().limit, 20 * kMiB);
  EXPECT_EQ(stats().register_failed, 1u);
  EXPECT_EQ(stats().refused, 1u);
  const size_t calls = api_.calls();
  EXPECT_FALSE(pool_->take(64));
  EXPECT_EQ(api_.calls(), calls);
  pool_->set_limit(256 * kMiB);
  EXPECT_TRUE(pool_->take(64 * kMiB));
}

TEST_F(PinnedPoolTest, PartlyRegisteredSegmentIsUsed) {
  pool_.emplace(api_.table(), std::ref(*fences_), 64 * kMiB, 8 * kMiB);
  api_.fail_at(3, CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_FALSE(pool_->take(30 * kMiB));
  EXPECT_EQ(stats().registered, 16 * kMiB);
  EXPECT_EQ(stats().limit, 16 * kMiB);
  EXPECT_TRUE(pool_->take(16 * kMiB));
  pool_.emplace(api_.table(), std::ref(*fences_), 64 * kMiB, 8 * kMiB);
  api_.fail_at(2, CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_FALSE(pool_->take(30 * kMiB));
  const PinnedBlock small = pool_->take(1);
  EXPECT_TRUE(small);
  EXPECT_TRUE(pool_->take(5 * kMiB));
}

TEST_F(PinnedPoolTest, DeadDeviceThrows) {
  api_.fail_at(1, CUDA_ERROR_ILLEGAL_ADDRESS);
  expect_error(ErrorCode::device_failed, [&] { pool_->take(64); });
  EXPECT_EQ(stats().limit, 256 * kMiB);
  EXPECT_TRUE(pool_->take(64));
}

TEST_F(PinnedPoolTest, NoAddressesAreARefusal) {
  pool_->set_limit(SIZE_MAX);
  EXPECT_FALSE(pool_->take(size_t{1} << 50));
  expect_bytes(0, 0, 0, 0);
  EXPECT_EQ(stats().register_failed, 1u);
}

TEST_F(PinnedPoolTest, FailedUnregisterLeaks) {
  free_block(20 * kMiB);
  api_.fail_at(1, CUDA_ERROR_UNKNOWN);
  EXPECT_EQ(pool_->trim(0), 0u);
  expect_bytes(0, 0, 0, 20 * kMiB);
}

// Everything that a pool does, with the n-th call failing, for all n.
TEST(PinnedPoolFailures, EveryCallFailureIsCounted) {
  for (const CUresult code : {CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_ILLEGAL_ADDRESS}) {
    size_t n = 1;
    for (bool failed = true; failed; ++n) {
      ASSERT_LT(n, 1000u);
      CountingApi api;
      TestFences fences(api);
      std::vector<Deleter> owners;
      PinnedPool pool(api.table(), std::ref(fences), 40 * kMiB, 8 * kMiB);
      api.fail_at(n, code, 2);
      const auto attempt = [&](const auto& action) {
        try {
          action();
        } catch (const Error&) {
        }
        expect_consistent(pool.stats());
        EXPECT_EQ(pool.stats().registered, api.registered());
      };
      for (const size_t bytes : {size_t{64}, 8 * kMiB, 10 * kMiB, 18 * kMiB}) {
        attempt([&] {
          PinnedBlock a = pool.take(bytes);
          PinnedBlock b = pool.take(bytes);
          if (a) std::move(a).retire(fences.passed_ticket());
          if (b) owners.push_back(std::move(b).into_deleter());
        });
        if (owners.size() > 1) {
          release(owners.back());
          owners.pop_back();
        }
        attempt([&] { pool.trim(10 * kMiB); });
      }
      attempt([&] { pool.reserve(16 * kMiB); });
      for (const Deleter& deleter : owners) release(deleter);
      failed = api.calls() >= n;
      api.fail_never();
      pool.trim(0);
      const PinnedStats stats = pool.stats();
      EXPECT_EQ(stats.registered, stats.leaked);
      EXPECT_EQ(api.registered(), stats.leaked) << n;
    }
    EXPECT_GT(n, 10u);
  }
}

// Releases run with the GIL held, and CUDA's callbacks may want it.
TEST_F(PinnedPoolTest, HoldsNoLockOfReleasesInCuda) {
  std::atomic<int> looks{0};
  thread_local bool inside = false;
  std::vector<PinnedBlock> spare;
  for (int i = 0; i < 30; ++i) spare.push_back(pool_->take(64));
  api_.on_call = [&] {
    if (inside || spare.empty()) return;
    inside = true;
    std::promise<void> looked;
    auto done = looked.get_future();
    std::thread other([&] {
      pool_->stats();
      spare.pop_back();
      looked.set_value();
    });
    EXPECT_EQ(done.wait_for(std::chrono::seconds(5)), std::future_status::ready);
    other.join();
    ++looks;
    inside = false;
  };
  fences_->hold_fences();
  drop_result(20 * kMiB);
  pool_->poll_if_due();
  pool_->take(20 * kMiB).retire(fences_->passed_ticket());
  pool_->poll();
  fences_->pass_fences();
  pool_->trim(0);
  pool_->reserve(20 * kMiB);
  api_.fail_at(1, CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_FALSE(pool_->take(40 * kMiB));
  pool_->set_limit(0);
  EXPECT_GE(looks, 9);
  api_.on_call = nullptr;
}

// ---- The end, which tests alone reach

TEST_F(PinnedPoolTest, EndUnregistersAndKeepsWhatIsHeld) {
  fences_->hold_fences();
  drop_result(64);
  const std::byte* const place = pool_->take(20 * kMiB).data();
  PinnedBlock block = pool_->take(10 * kMiB);
  std::memset(block.data(), 0x5a, block.size());
  const Deleter result = pool_->take(12 * kMiB).into_deleter();
  std::thread device([&] {
    while (api_.registered() > 24 * kMiB)
      std::this_thread::yield();  // the free segment goes at once
    fences_->pass_fences();
  });
  pool_->end();
  device.join();
  EXPECT_EQ(api_.registered(), 0u);
  EXPECT_FALSE(is_mapped(place));
  EXPECT_EQ(block.data()[block.size() - 1], std::byte{0x5a});
  release(result);
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

// The engine refuses every call; what the child drops is not its own.
TEST_F(PinnedPoolTest, ForkedChildsReleasesDoNothing) {
  PinnedBlock block = pool_->take(64);
  std::memset(block.data(), 0x33, 64);
  PinnedBlock second = pool_->take(20 * kMiB);
  PinnedBlock third = pool_->take(20 * kMiB);
  PinnedBlock fourth = pool_->take(20 * kMiB);
  const Deleter deleter = pool_->take(kMiB).into_deleter();
  const size_t calls = api_.calls();
  const auto child = [&] {
    if (block.data()[63] != std::byte{0x33}) return 1;
    release(deleter);
    second = PinnedBlock();
    std::move(third).retire(fences_->passed_ticket());
    std::move(fourth).leak();
    if (pool_->stats().owned != pool_->stats().registered - pool_->stats().free) return 2;
    return api_.calls() == calls + 1 ? 0 : 3;  // the ticket's event
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
      return 0;
    };
    ASSERT_EQ(in_a_fork(child), 0);
    release(deleter);
  }
  stop = true;
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace dlbridge::cuda
