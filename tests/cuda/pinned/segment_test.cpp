// SPDX-License-Identifier: Apache-2.0
// PinnedSegment: mapping, touching, registration in pieces, and what happens when a step fails.
#include "pinned/segment.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "counting_api.h"
#include "errors.h"

namespace dlbridge::cuda {
namespace {

using test::CountingApi;
using test::error_of;
using test::is_mapped;

constexpr size_t kMiB = size_t{1} << 20;

void register_all(PinnedSegment& segment, const CountingApi& api) {
  while (segment.registered() < segment.size()) ASSERT_NE(segment.register_next(api.table()), 0u);
}

size_t resident_pages(const std::byte* data, size_t bytes) {
  std::vector<unsigned char> pages(bytes / 4096);
  EXPECT_EQ(mincore(const_cast<std::byte*>(data), bytes, pages.data()), 0);
  return static_cast<size_t>(
      std::count_if(pages.begin(), pages.end(), [](auto page) { return (page & 1) != 0; }));
}

TEST(PinnedSegment, IsAlignedAndZero) {
  for (int i = 0; i < 8; ++i) {
    const PinnedSegment segment(6 * kMiB);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(segment.data()) % PinnedSegment::kGranularity, 0u);
    EXPECT_EQ(segment.size(), 6 * kMiB);
    for (size_t at = 0; at < segment.size(); at += 4096) ASSERT_EQ(segment.data()[at], std::byte{});
  }
}

TEST(PinnedSegment, TouchesPagesBeforeRegistering) {
  CountingApi api;
  PinnedSegment segment(64 * kMiB);
  size_t resident = 0;
  api.on_call = [&] { resident = resident_pages(segment.data(), segment.size()); };
  register_all(segment, api);
  api.on_call = nullptr;
  EXPECT_EQ(resident, 64 * kMiB / 4096);
  segment.unregister(api.table());
}

TEST(PinnedSegment, SeveralThreadsTouch) {
  if (std::thread::hardware_concurrency() < 2) GTEST_SKIP() << "one processor";
  const auto faults = [](int who) {
    rusage usage{};
    getrusage(who, &usage);
    return usage.ru_minflt;
  };
  const long mine = faults(RUSAGE_THREAD);
  const long all = faults(RUSAGE_SELF);
  CountingApi api;
  PinnedSegment segment(128 * kMiB);
  register_all(segment, api);
  const long by_me = faults(RUSAGE_THREAD) - mine;
  const long by_all = faults(RUSAGE_SELF) - all;
  EXPECT_GE(by_all - by_me, 24);  // of 64 or more, a huge page being one; half of them are due
  segment.unregister(api.table());
}

TEST(PinnedSegment, AsksForHugePages) {
  const PinnedSegment segment(4 * kMiB);
  std::ifstream smaps("/proc/self/smaps");
  const auto address = reinterpret_cast<uintptr_t>(segment.data());
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    unsigned long begin = 0;
    unsigned long end = 0;
    if (sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2)
      inside = begin <= address && address < end;
    if (inside && line.starts_with("VmFlags:")) {
      EXPECT_NE(line.find(" hg"), std::string::npos) << line;
      return;
    }
  }
  GTEST_SKIP() << "no VmFlags in /proc/self/smaps";
}

TEST(PinnedSegment, PrefersTheNode) {
  CountingApi api;
  api.numa_node = 0;
  PinnedSegment segment(4 * kMiB);
  register_all(segment, api);
  std::ifstream maps("/proc/self/numa_maps");
  char wanted[32];
  std::snprintf(wanted, sizeof wanted, "%lx ", reinterpret_cast<unsigned long>(segment.data()));
  for (std::string line; std::getline(maps, line);) {
    if (!line.starts_with(wanted)) continue;
    EXPECT_NE(line.find(" prefer"), std::string::npos) << line;
    return;
  }
  GTEST_SKIP() << "no NUMA policies in /proc/self/numa_maps";
}

TEST(PinnedSegment, RegistersAdjacentPieces) {
  CountingApi api;
  PinnedSegment segment(14 * kMiB, 4 * kMiB);
  EXPECT_EQ(segment.registered(), 0u);
  register_all(segment, api);
  EXPECT_EQ(segment.registered(), 14 * kMiB);
  const auto pieces = api.pieces();
  ASSERT_EQ(pieces.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(pieces[i].address, segment.data() + i * 4 * kMiB);
    EXPECT_EQ(pieces[i].bytes, i < 3 ? 4 * kMiB : 2 * kMiB);
    EXPECT_EQ(pieces[i].flags,
              unsigned{CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP});
  }
  segment.unregister(api.table());
  EXPECT_EQ(api.registered(), 0u);
  EXPECT_EQ(segment.registered(), 0u);
}

TEST(PinnedSegment, PieceIsAtMostOneGibibyte) {
  CountingApi api;
  constexpr size_t kGiB = size_t{1} << 30;
  PinnedSegment segment(kGiB + 2 * kMiB);
  register_all(segment, api);
  const auto pieces = api.pieces();
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_EQ(pieces[0].bytes, kGiB);
  EXPECT_EQ(pieces[1].bytes, 2 * kMiB);
  EXPECT_EQ(segment.bytes_to_seam(kGiB - 1), 1u);
  EXPECT_EQ(segment.bytes_to_seam(kGiB), 2 * kMiB);
  segment.unregister(api.table());
}

TEST(PinnedSegment, TellsBytesToSeam) {
  const PinnedSegment segment(10 * kMiB, 4 * kMiB);
  EXPECT_EQ(segment.bytes_to_seam(0), 4 * kMiB);
  EXPECT_EQ(segment.bytes_to_seam(1), 4 * kMiB - 1);
  EXPECT_EQ(segment.bytes_to_seam(4 * kMiB - 1), 1u);
  EXPECT_EQ(segment.bytes_to_seam(4 * kMiB), 4 * kMiB);
  EXPECT_EQ(segment.bytes_to_seam(9 * kMiB), kMiB);
}

TEST(PinnedSegment, RefusedPieceIsUnmapped) {
  CountingApi api;
  const std::byte* data = nullptr;
  {
    PinnedSegment segment(8 * kMiB, 2 * kMiB);
    data = segment.data();
    EXPECT_EQ(segment.register_next(api.table()), 2 * kMiB);
    api.fail_at(1, CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(segment.register_next(api.table()), 0u);
    segment.shrink();
    EXPECT_EQ(segment.size(), 2 * kMiB);
  }
  EXPECT_TRUE(is_mapped(data + 2 * kMiB - 1));  // it is registered to the end
  EXPECT_FALSE(is_mapped(data + 2 * kMiB));
  EXPECT_FALSE(is_mapped(data + 8 * kMiB - 1));
}

TEST(PinnedSegment, FailedUnregisterKeepsTheRest) {
  CountingApi api;
  PinnedSegment segment(6 * kMiB, 2 * kMiB);
  register_all(segment, api);
  api.fail_at(2, CUDA_ERROR_UNKNOWN);
  segment.unregister(api.table());
  EXPECT_EQ(segment.registered(), 4 * kMiB);
  segment.unregister(api.table());
  EXPECT_EQ(segment.registered(), 0u);
}

TEST(PinnedSegment, IgnoresAlreadyUnregistered) {
  CountingApi api;
  PinnedSegment segment(2 * kMiB);
  register_all(segment, api);
  api.fail_at(1, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
  segment.unregister(api.table());
  EXPECT_EQ(segment.registered(), 0u);
}

// The thread that unregisters may have another context, or none.
TEST(PinnedSegment, UnregistersInItsContext) {
  CountingApi api;
  CountingApi::context() = reinterpret_cast<CUcontext>(16);
  PinnedSegment segment(2 * kMiB);
  register_all(segment, api);
  CountingApi::context() = nullptr;
  CUcontext found = nullptr;
  api.on_call = [&] { found = CountingApi::context(); };
  segment.unregister(api.table());
  EXPECT_EQ(found, reinterpret_cast<CUcontext>(16));
  EXPECT_EQ(CountingApi::context(), nullptr);
}

// On older kernels a fork makes private registered pages copy-on-write for the parent.
TEST(PinnedSegment, IsSharedWhereForkWouldMovePages) {
  for (const char* release : {"4.18.0-553.el8.x86_64", "5.8.18", "4.4.0", "unknown"})
    EXPECT_EQ(mapping_flags(release), MAP_SHARED | MAP_ANONYMOUS) << release;
  for (const char* release : {"5.9.0-rc1", "5.15.0-91-generic", "6.8.0"})
    EXPECT_EQ(mapping_flags(release), MAP_PRIVATE | MAP_ANONYMOUS) << release;
}

TEST(PinnedSegment, UnregisteringKeepsTheContent) {
  CountingApi api;
  PinnedSegment segment(4 * kMiB, 2 * kMiB);
  register_all(segment, api);
  std::memset(segment.data(), 0x5a, segment.size());
  segment.unregister(api.table());
  for (size_t at = 0; at < segment.size(); at += 511)
    ASSERT_EQ(segment.data()[at], std::byte{0x5a});
}

TEST(PinnedSegment, AddressSpaceEndIsOutOfMemory) {
  for (const size_t bytes : {size_t{1} << 50, SIZE_MAX - SIZE_MAX % (2 * kMiB)}) {
    const auto error = error_of([&] { PinnedSegment segment(bytes); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), ErrorCode::out_of_memory);
    EXPECT_NE(std::strstr(error->what(), "out="), nullptr) << error->what();
  }
}

}  // namespace
}  // namespace dlbridge::cuda
