// SPDX-License-Identifier: Apache-2.0
// PinnedPool, many threads: blocks that cross threads, the limit under a race, reservations
// meanwhile.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <random>
#include <thread>

#include "counting_api.h"
#include "pinned/pool.h"

namespace dlbridge::cuda {
namespace {

using test::CountingApi;
using test::expect_consistent;
using test::TestFences;

constexpr size_t kMiB = size_t{1} << 20;

void run_threads(int count, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back(body, i);
  for (auto& thread : threads) thread.join();
}

// Fills a block with its own mark, and looks for it later: two holders of one block would notice.
std::byte mark_of(const std::byte* data) {
  return static_cast<std::byte>((reinterpret_cast<uintptr_t>(data) >> 6) * 37 >> 3);
}
void mark(const PinnedBlock& block, std::byte value) {
  if (block.size() == 0) return;
  block.data()[0] = block.data()[block.size() - 1] = block.data()[block.size() / 2] = value;
}
bool is_marked(const PinnedBlock& block, std::byte value) {
  return block.size() == 0 ||
         (block.data()[0] == value && block.data()[block.size() - 1] == value &&
          block.data()[block.size() / 2] == value);
}

// Blocks on their way from one thread to another.
class Exchange {
 public:
  PinnedBlock swap(PinnedBlock block, size_t keep) {
    const std::lock_guard lock(mutex_);
    blocks_.push_back(std::move(block));
    if (blocks_.size() <= keep) return {};
    PinnedBlock other = std::move(blocks_.front());
    blocks_.pop_front();
    return other;
  }
  void clear() { blocks_.clear(); }

 private:
  std::mutex mutex_;
  std::deque<PinnedBlock> blocks_;
};

class PinnedPoolThreads : public ::testing::Test {
 protected:
  CountingApi api_;
  TestFences fences_{api_};
};

TEST_F(PinnedPoolThreads, OtherThreadsFreeBlocks) {
  PinnedPool pool(api_.table(), std::ref(fences_), 64 * kMiB);
  Exchange exchange;
  std::atomic<int> done{0};
  std::thread watcher([&] {
    while (done < 8) {
      expect_consistent(pool.stats());
      std::this_thread::yield();
    }
  });
  run_threads(8, [&](int seed) {
    std::mt19937 random(static_cast<uint32_t>(seed));
    for (int i = 0; i < 12000; ++i) {
      const size_t size = random() % 8 == 0 ? random() % (300 << 10) : random() % 3000;
      PinnedBlock block = pool.take(size);
      ASSERT_TRUE(block);
      mark(block, mark_of(block.data()));
      PinnedBlock other = exchange.swap(std::move(block), 50);
      if (!other) continue;
      ASSERT_TRUE(is_marked(other, mark_of(other.data())));
      mark(other, std::byte{0});
      switch (random() % 4) {
        case 0:
          std::move(other).retire(fences_.passed_ticket());
          break;
        case 1: {
          std::byte* const place = other.data();
          const Deleter deleter = std::move(other).into_deleter();
          if (random() % 4 == 0) {
            ASSERT_TRUE(pool.add_ticket(place, fences_.passed_ticket()));
          }
          deleter.release(deleter.context);
          break;
        }
        default:
          break;
      }
    }
    ++done;
  });
  watcher.join();
  exchange.clear();
  pool.poll();
  const PinnedStats stats = pool.stats();
  expect_consistent(stats);
  EXPECT_EQ(stats.free, stats.registered);
  pool.trim(0);
  EXPECT_EQ(api_.registered(), 0u);
}

TEST_F(PinnedPoolThreads, TrimRunsConcurrently) {
  PinnedPool pool(api_.table(), std::ref(fences_), 64 * kMiB);
  std::atomic<bool> stop{false};
  std::thread trimmer([&] {
    for (size_t i = 0; !stop; ++i) {
      pool.trim(i % 3 * 4 * kMiB);
      pool.set_limit((8 + i % 8 * 8) * kMiB);
      pool.poll();
    }
  });
  run_threads(6, [&](int seed) {
    std::mt19937 random(static_cast<uint32_t>(seed));
    for (int i = 0; i < 300; ++i) {
      PinnedBlock block = pool.take(random() % 6 == 0 ? random() % (12 * kMiB) : random() % 100000);
      if (!block) continue;
      mark(block, mark_of(block.data()));
      PinnedBlock second = pool.take(random() % 5000);
      ASSERT_TRUE(is_marked(block, mark_of(block.data())));
      const Deleter deleter = std::move(block).into_deleter();
      deleter.release(deleter.context);
    }
  });
  stop = true;
  trimmer.join();
  pool.trim(0);
  EXPECT_EQ(pool.stats().registered, 0u);
  EXPECT_EQ(api_.registered(), 0u);
}

TEST_F(PinnedPoolThreads, NoRaceBreaksTheLimit) {
  // Slow enough that growing and giving back overlap.
  api_.on_call = [] { std::this_thread::sleep_for(std::chrono::microseconds(300)); };
  for (const size_t limit : {6 * kMiB, 34 * kMiB}) {
    PinnedPool pool(api_.table(), std::ref(fences_), limit);
    std::atomic<int> given{0};
    run_threads(16, [&](int seed) {
      std::mt19937 random(static_cast<uint32_t>(seed));
      for (int i = 0; i < 60; ++i) {
        PinnedBlock a = pool.take(random() % 2 == 0 ? 9 * kMiB : random() % (3 * kMiB));
        PinnedBlock b = pool.take(random() % 100000);
        given += a ? 1 : 0;
        if (i % 16 == 0) pool.trim(0);
        if (a && random() % 2 == 0) std::move(a).retire(fences_.passed_ticket());
      }
    });
    EXPECT_GT(given, 0);
    EXPECT_LE(api_.most_registered(), limit);
    EXPECT_GE(api_.most_registered(), limit / 2);
    expect_consistent(pool.stats());
    pool.trim(0);  // segments of 2 MiB may fill the limit
    EXPECT_TRUE(pool.take(4 * kMiB));
    pool.end();
  }
  api_.on_call = nullptr;
}

TEST_F(PinnedPoolThreads, ConcurrentMissesShareSegment) {
  PinnedPool pool(api_.table(), std::ref(fences_), 256 * kMiB);
  run_threads(16, [&](int) { EXPECT_TRUE(pool.take(64)); });
  EXPECT_EQ(pool.stats().grows, 1u);
}

TEST_F(PinnedPoolThreads, FailedGrowthWakesOthers) {
  PinnedPool pool(api_.table(), std::ref(fences_), 256 * kMiB);
  for (int round = 0; round < 20; ++round) {
    api_.fail_at(1, CUDA_ERROR_ILLEGAL_ADDRESS, 3);
    std::atomic<int> failed{0};
    run_threads(4, [&](int) {
      try {
        EXPECT_TRUE(pool.take(64));
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::device_failed);
        ++failed;
      }
    });
    EXPECT_LT(failed, 4);
    api_.fail_never();
    pool.trim(0);
    EXPECT_EQ(pool.stats().registered, 0u);
  }
}

TEST_F(PinnedPoolThreads, TakesAndTrimsDuringReservations) {
  // The limit is beyond all that is asked for: a busy machine may not run the trimmer for long.
  PinnedPool pool(api_.table(), std::ref(fences_), 4096 * kMiB, 8 * kMiB,
                  std::chrono::microseconds(100));
  std::atomic<bool> stop{false};
  std::thread trimmer([&] {
    while (!stop) pool.trim(0);
  });
  run_threads(4, [&](int seed) {
    std::mt19937 random(static_cast<uint32_t>(seed));
    for (int i = 0; i < 40; ++i) {
      if (seed == 0) pool.reserve(32 * kMiB);
      PinnedBlock block = pool.take(random() % (12 * kMiB));
      ASSERT_TRUE(block);
      mark(block, mark_of(block.data()));
      PinnedBlock second = pool.take(random() % 5000);
      ASSERT_TRUE(is_marked(block, mark_of(block.data())));
    }
  });
  stop = true;
  trimmer.join();
  pool.trim(0);
  EXPECT_EQ(pool.stats().registered, 0u);
  EXPECT_EQ(api_.registered(), 0u);
}

}  // namespace
}  // namespace dlbridge::cuda
