// SPDX-License-Identifier: Apache-2.0
#include "pinned/segment.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "runtime/cuda_error.h"
#include "runtime/guards.h"
#include "runtime/process.h"

namespace dlbridge::cuda {
namespace {

constexpr size_t kGrain = PinnedSegment::kGranularity;
// The smallest page that there is; a huge page is there after its first touch.
constexpr size_t kSmallPage = 4096;
// Below this much for each, starting a thread costs more than it touches meanwhile.
constexpr size_t kTouchBytes = size_t{16} << 20;
constexpr size_t kTouchThreads = 8;
#ifdef MADV_POPULATE_WRITE
constexpr int kPopulateWrite = MADV_POPULATE_WRITE;
#else
constexpr int kPopulateWrite = 23;
#endif

std::byte* map_aligned(size_t bytes) {
  static const int flags = [] {
    utsname system{};
    return uname(&system) == 0 ? mapping_flags(system.release) : MAP_PRIVATE | MAP_ANONYMOUS;
  }();
  const size_t room = bytes <= SIZE_MAX - kGrain ? bytes + kGrain : SIZE_MAX;
  void* mapped = mmap(nullptr, room, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (mapped == MAP_FAILED) {
    throw Error(ErrorCode::out_of_memory, "pinned memory",
                "mapping " + std::to_string(bytes) +
                    " bytes of host memory failed: " + std::generic_category().message(errno) +
                    "; free memory, or stage into memory of your own with out=");
  }
  const auto address = reinterpret_cast<uintptr_t>(mapped);
  const size_t head = (kGrain - address % kGrain) % kGrain;
  auto* const base = static_cast<std::byte*>(mapped) + head;
  if (head > 0) munmap(mapped, head);
  munmap(base + bytes, kGrain - head);
  madvise(base, bytes, MADV_HUGEPAGE);  // optional: without huge pages it is slower
  return base;
}

// Prefers the NUMA node of the host that is nearest to the current device. Optional: memory of
// another node is slower to copy from. libnuma would be one more dependency.
void prefer_near_node(const CudaApi& api, std::byte* data, size_t bytes) noexcept {
  constexpr int kPreferred = 1;  // MPOL_PREFERRED of <linux/mempolicy.h>
  CUdevice device = -1;
  int node = -1;
  if (api.ctx_get_device(&device) != CUDA_SUCCESS) return;
  // Fails before CUDA 12.2.
  if (api.device_get_attribute(&node, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, device) != CUDA_SUCCESS)
    return;
  if (node < 0 || node >= 64) return;
  const uint64_t nodes = uint64_t{1} << node;
  syscall(SYS_mbind, data, bytes, kPreferred, &nodes, 65, 0);
}

void touch(std::byte* begin, std::byte* end) noexcept {
  if (madvise(begin, static_cast<size_t>(end - begin), kPopulateWrite) == 0) return;
  for (std::byte* page = begin; page < end; page += kSmallPage)
    *static_cast<volatile std::byte*>(page) = std::byte{0};
}

void touch_all(std::byte* base, size_t bytes) {
  const size_t threads = std::clamp<size_t>(
      std::min<size_t>(bytes / kTouchBytes, std::thread::hardware_concurrency()), 1, kTouchThreads);
  const auto border = [&](size_t i) { return base + bytes / kGrain * i / threads * kGrain; };
  std::vector<std::thread> helpers;
  size_t mine = 1;  // shares that are left to this thread, counted from the front
  try {
    helpers.reserve(threads);
    for (size_t i = threads; i > 1; --i)
      helpers.push_back(
          start_thread([begin = border(i - 1), end = border(i)] { touch(begin, end); }));
  } catch (const std::exception&) {
    mine = threads - helpers.size();  // no thread, or no memory for one
  }
  touch(base, border(mine));
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace

// Linux 5.9 (commit 70e806e4e645) copies pinned pages for the child; before, they became
// copy-on-write, and devices went on with the pages that the parent had lost.
int mapping_flags(const char* release) noexcept {
  int major = 0;
  int minor = 0;
  const bool known = std::sscanf(release, "%d.%d", &major, &minor) == 2;
  const bool copies_for_child = known && (major > 5 || (major == 5 && minor >= 9));
  return (copies_for_child ? MAP_PRIVATE : MAP_SHARED) | MAP_ANONYMOUS;
}

PinnedSegment::PinnedSegment(size_t bytes, size_t piece_bytes)
    : data_(map_aligned(bytes)), size_(bytes), piece_bytes_(piece_bytes) {}

PinnedSegment::~PinnedSegment() { shrink(); }

size_t PinnedSegment::bytes_to_seam(size_t offset) const noexcept {
  return std::min(piece_bytes_ - offset % piece_bytes_, size_ - offset);
}

size_t PinnedSegment::register_next(const CudaApi& api) {
  std::byte* const piece = data_ + registered_;
  const size_t bytes = std::min(piece_bytes_, size_ - registered_);
  if (registered_ == 0) {
    check(api.ctx_get_current(&context_), "cuCtxGetCurrent");
    prefer_near_node(api, data_, size_);
  }
  touch_all(piece, bytes);
  const CUresult error =
      api.host_register(piece, bytes, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
  if (error != CUDA_SUCCESS) {
    if (is_sticky(error)) {
      throw CudaError(error, ErrorCode::device_failed,
                      "registering " + std::to_string(bytes) +
                          " bytes of host memory with CUDA failed with " + error_name(error) +
                          ", from which a process does not recover: start a new one");
    }
    return 0;
  }
  registered_ += bytes;
  return bytes;
}

void PinnedSegment::shrink() noexcept {
  if (size_ > registered_) munmap(data_ + registered_, size_ - registered_);
  size_ = registered_;
}

void PinnedSegment::unregister(const CudaApi& api) noexcept {
  const CallGuard guard(api, context_, std::nothrow);
  if (!guard.entered()) return;  // what the context registered stays mapped
  while (registered_ > 0) {
    const size_t piece = (registered_ - 1) / piece_bytes_ * piece_bytes_;
    const CUresult error = api.host_unregister(data_ + piece);
    // After a reset of the device it is unregistered already.
    if (error != CUDA_SUCCESS && error != CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED) return;
    registered_ = piece;
  }
}

}  // namespace dlbridge::cuda
