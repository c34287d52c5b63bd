// SPDX-License-Identifier: Apache-2.0
// EventPool: events are made once, used again, and end with their pool.
#include "runtime/event_pool.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "counting_api.h"
#include "errors.h"

namespace dlbridge::cuda {
namespace {

using test::CountingApi;
using test::expect_error;

TEST(EventPool, ReusesReturnedEvents) {
  CountingApi api;
  {
    EventPool pool(api.table());
    CUevent first = nullptr;
    {
      const PooledEvent event = pool.take();
      first = event.get();
      EXPECT_TRUE(event);
      EXPECT_NE(pool.take().get(), first);
    }
    std::set<CUevent> again;
    const PooledEvent a = pool.take();
    const PooledEvent b = pool.take();
    EXPECT_NE(a.get(), b.get());
    EXPECT_TRUE(a.get() == first || b.get() == first);
    EXPECT_EQ(api.events(), 2u);
  }
  EXPECT_EQ(api.events(), 0u);
}

TEST(EventPool, MovedEventReturnsOnce) {
  CountingApi api;
  EventPool pool(api.table());
  {
    PooledEvent a = pool.take();
    const CUevent event = a.get();
    PooledEvent b = std::move(a);
    EXPECT_FALSE(a);  // NOLINT: what a move leaves is part of the promise
    PooledEvent c = pool.take();
    c = std::move(b);  // gives its own back
    EXPECT_EQ(c.get(), event);
    PooledEvent& self = c;
    c = std::move(self);
    EXPECT_EQ(c.get(), event);
  }
  const PooledEvent a = pool.take();
  const PooledEvent b = pool.take();
  EXPECT_NE(a.get(), b.get());
  EXPECT_EQ(api.events(), 2u);
}

TEST(EventPool, LeakedEventNeverReturns) {
  CountingApi api;
  {
    EventPool pool(api.table());
    PooledEvent event = pool.take();
    const CUevent leaked = event.get();
    event.leak();
    EXPECT_FALSE(event);
    EXPECT_NE(pool.take().get(), leaked);
  }
  EXPECT_EQ(api.events(), 1u);
}

TEST(EventPool, FailureLeavesThePoolUsable) {
  CountingApi api;
  EventPool pool(api.table());
  api.fail_at(1, CUDA_ERROR_LAUNCH_FAILED);
  expect_error(ErrorCode::device_failed, [&] { pool.take(); });
  EXPECT_TRUE(pool.take());
}

TEST(EventPool, EventsSleepAndHaveNoTiming) {
  CountingApi api;
  static unsigned seen = 0;
  CudaApi table = api.table();
  table.event_create_with_flags = [](CUevent*, unsigned flags) {
    seen = flags;
    return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
  };
  EventPool pool(table);
  expect_error(ErrorCode::device_failed, [&] { pool.take(); });
  EXPECT_EQ(seen, unsigned{CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING});
}

TEST(EventPool, ServesThreadsTogether) {
  CountingApi api;
  {
    EventPool pool(api.table());
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&pool] {
        for (int i = 0; i < 2000; ++i) {
          PooledEvent a = pool.take();
          const PooledEvent b = pool.take();
          ASSERT_NE(a.get(), b.get());
          a = pool.take();
          ASSERT_NE(a.get(), b.get());
        }
      });
    }
    for (auto& thread : threads) thread.join();
    EXPECT_LE(api.events(), 24u);
  }
  EXPECT_EQ(api.events(), 0u);
}

}  // namespace
}  // namespace dlbridge::cuda
