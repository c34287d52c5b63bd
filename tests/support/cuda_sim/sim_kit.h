// SPDX-License-Identifier: Apache-2.0
// What the simulator's own tests share: a program over streams, events and memory in few words.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include "cuda_sim/simulator.h"

namespace dlbridge::cuda_sim {

#define ASSERT_CUDA(expression) ASSERT_EQ(expression, CUDA_SUCCESS)
#define EXPECT_CUDA(expression) EXPECT_EQ(expression, CUDA_SUCCESS)

using Bytes = std::vector<uint8_t>;

inline Bytes pattern(size_t count, uint8_t seed) {
  Bytes bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(seed + i * 7 + i / 251);
  return bytes;
}

/// Pages of its own, registered for as long as it lives.
class PinnedBytes {
 public:
  PinnedBytes(const cuda::CudaApi& api, size_t count, unsigned flags = CU_MEMHOSTREGISTER_PORTABLE)
      : api_(api), pages_(static_cast<uint8_t*>(std::aligned_alloc(4096, rounded(count)))) {
    std::memset(pages_, 0xEE, rounded(count));
    EXPECT_CUDA(api_.host_register(pages_, count, flags));
  }
  ~PinnedBytes() {
    api_.host_unregister(pages_);
    std::free(pages_);
  }
  PinnedBytes(const PinnedBytes&) = delete;
  PinnedBytes& operator=(const PinnedBytes&) = delete;
  uint8_t* data() const { return pages_; }
  Bytes copy(size_t count) const { return Bytes(pages_, pages_ + count); }

 private:
  static size_t rounded(size_t count) { return (count + 4095) / 4096 * 4096; }
  const cuda::CudaApi& api_;
  uint8_t* pages_;
};

/// A simulator of which device 1 is current on the test's thread.
class World {
 public:
  explicit World(Config config = {}) : sim(std::move(config)), api(sim.api()) { sim.use_device(1); }
  ~World() { sim.use_no_device(); }

  uint8_t* alloc(size_t count) { return static_cast<uint8_t*>(sim.device_alloc(count)); }
  CUevent event(unsigned flags = CU_EVENT_DISABLE_TIMING) {
    CUevent event = nullptr;
    EXPECT_CUDA(api.event_create_with_flags(&event, flags));
    return event;
  }
  CUresult query(CUevent event) const { return api.event_query(event); }
  CUstream stream(unsigned flags = CU_STREAM_NON_BLOCKING, int device = 1) {
    return sim.make_stream(flags, device);
  }
  CUcontext context_of(CUstream stream) const {
    CUcontext context = nullptr;
    EXPECT_CUDA(api.stream_get_ctx(stream, &context));
    return context;
  }
  CUstreamCaptureStatus status_of(CUstream stream) const {
    CUstreamCaptureStatus status;
    EXPECT_CUDA(api.stream_is_capturing(stream, &status));
    return status;
  }
  /// Records on `from`, waits on `to`.
  void order(CUstream from, CUstream to) {
    CUevent made = event();
    EXPECT_CUDA(api.event_record(made, from));
    EXPECT_CUDA(api.stream_wait_event(to, made, 0));
    EXPECT_CUDA(api.event_destroy(made));
  }
  void copy(void* target, const void* source, size_t count, CUstream stream) {
    EXPECT_CUDA(api.memcpy_async(target, source, count, stream));
  }
  Bytes read(const void* memory, size_t count) { return sim.read(memory, count); }

  /// A thread of the same device.
  template <class F>
  std::thread thread(F body) {
    return std::thread([this, body] {
      sim.use_device(1);
      body();
    });
  }

  /// Reports of one kind and no others, if `expected`, else none. They are forgotten.
  void expect_only(ReportKind kind, bool expected) {
    EXPECT_EQ(sim.reports_of(kind) > 0, expected) << sim.trace();
    EXPECT_EQ(sim.reports_of(kind), sim.reports().size()) << sim.complaint();
    sim.clear_reports();
  }

  Simulator sim;
  const cuda::CudaApi& api;
};

/// One with device memory, as much pinned memory and a stream for copies between the two.
struct CopyWorld : World {
  explicit CopyWorld(size_t count, Config config = {})
      : World(std::move(config)), memory(sim.device_alloc(count)), host(api, count) {}

  void* memory;
  PinnedBytes host;
  CUstream copies = stream();
};

#define EXPECT_ONLY_IF(condition, world, expected_kind) \
  do {                                                  \
    SCOPED_TRACE("reports");                            \
    (world).expect_only(expected_kind, condition);      \
  } while (false)
#define EXPECT_ONLY(world, expected_kind) EXPECT_ONLY_IF(true, world, expected_kind)
#define EXPECT_NO_REPORTS(world) EXPECT_EQ((world).sim.complaint(), "")
/// A call that answers `error` and is reported.
#define EXPECT_REFUSED(world, call, error, expected_kind) \
  do {                                                    \
    EXPECT_EQ(call, error);                               \
    EXPECT_ONLY(world, expected_kind);                    \
  } while (false)

inline Config schedule(Schedule which, uint64_t seed = 1) {
  return {.schedule = which, .seed = seed};
}

/// A test for each schedule.
class EverySchedule : public ::testing::TestWithParam<Schedule> {
 protected:
  Config config() const { return schedule(GetParam()); }
};

#define FOR_EVERY_SCHEDULE(suite)      \
  INSTANTIATE_TEST_SUITE_P(Sim, suite, \
                           ::testing::Values(Schedule::eager, Schedule::lazy, Schedule::random))

}  // namespace dlbridge::cuda_sim
