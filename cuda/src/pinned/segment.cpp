// SPDX-License-Identifier: Apache-2.0
#include "pinned/segment.h"

#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "runtime/cuda_error.h"
#include "runtime/guards.h"
#include "runtime/signals.h"

namespace dlbridge::cuda {
namespace {

// The smallest page that there is; a huge page is there after its first touch.
constexpr size_t kSmallPage = 4096;
// Below this much for each, starting a thread costs more than it touches meanwhile.
constexpr size_t kTouchBytes = size_t{16} << 20;
constexpr size_t kTouchThreads = 8;

[[noreturn]] void fail_map(size_t bytes) {
  throw Error(ErrorCode::out_of_memory, "pinned memory",
              "mapping " + std::to_string(bytes) +
                  " bytes of host memory failed: " + std::generic_category().message(errno) +
                  "; free memory, or stage into memory of your own with out=");
}

std::byte* map_aligned(size_t bytes) {
  constexpr size_t kGrain = PinnedSegment::kGranularity;
  if (bytes > SIZE_MAX - kGrain) {
    errno = ENOMEM;
    fail_map(bytes);
  }
  void* mapped =
      mmap(nullptr, bytes + kGrain, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) fail_map(bytes);
  const auto address = reinterpret_cast<uintptr_t>(mapped);
  const size_t head = (kGrain - address % kGrain) % kGrain;
  auto* const base = static_cast<std::byte*>(mapped) + head;
  if (head > 0) munmap(mapped, head);
  munmap(base + bytes, kGrain - head);
  madvise(base, bytes, MADV_HUGEPAGE);  // optional: without huge pages it is slower
  return base;
}

void touch(std::byte* begin, std::byte* end) noexcept {
  for (std::byte* page = begin; page < end; page += kSmallPage)
    *static_cast<volatile std::byte*>(page) = std::byte{0};
}

void touch_all(std::byte* base, size_t bytes) {
  const size_t threads = std::clamp<size_t>(
      std::min<size_t>(bytes / kTouchBytes, std::thread::hardware_concurrency()), 1, kTouchThreads);
  const size_t grains = bytes / PinnedSegment::kGranularity;
  const auto border = [&](size_t i) {
    return base + grains * i / threads * PinnedSegment::kGranularity;
  };
  std::vector<std::thread> helpers;
  size_t mine = 1;  // shares that are left to this thread, counted from the front
  try {
    const SignalsBlocked blocked;
    helpers.reserve(threads);
    for (size_t i = threads; i > 1; --i)
      helpers.emplace_back([begin = border(i - 1), end = border(i)] { touch(begin, end); });
  } catch (const std::exception&) {
    mine = threads - helpers.size();  // no thread, or no memory for one
  }
  touch(base, border(mine));
  for (std::thread& helper : helpers) helper.join();
}

[[noreturn]] void fail_register(cudaError_t error, size_t bytes) {
  throw CudaError(error, is_sticky(error) ? ErrorCode::device_failed : ErrorCode::out_of_memory,
                  "registering " + std::to_string(bytes) +
                      " bytes of host memory with CUDA failed with " + error_name(error) +
                      "; lower the pool's limit with set_pinned_limit(), or stage into memory of "
                      "your own with out=");
}

}  // namespace

PinnedSegment::PinnedSegment(size_t bytes, size_t piece_bytes)
    : data_(map_aligned(bytes)), size_(bytes), piece_bytes_(piece_bytes) {
  try {
    pieces_.resize((bytes + piece_bytes - 1) / piece_bytes);
  } catch (...) {
    munmap(data_, size_);
    throw;
  }
  touch_all(data_, bytes);
}

PinnedSegment::PinnedSegment(PinnedSegment&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      piece_bytes_(other.piece_bytes_),
      pieces_(std::move(other.pieces_)) {
  other.pieces_.clear();
}

PinnedSegment& PinnedSegment::operator=(PinnedSegment&& other) noexcept {
  if (this == &other) return *this;
  unmap();
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  piece_bytes_ = other.piece_bytes_;
  pieces_ = std::move(other.pieces_);
  other.pieces_.clear();
  return *this;
}

PinnedSegment::~PinnedSegment() { unmap(); }

void PinnedSegment::unmap() noexcept {
  for (size_t i = 0; i < pieces_.size(); ++i) {
    if (pieces_[i] == 0) munmap(data_ + i * piece_bytes_, piece_length(i));
  }
}

size_t PinnedSegment::piece_length(size_t piece) const noexcept {
  return std::min(piece_bytes_, size_ - piece * piece_bytes_);
}

size_t PinnedSegment::registered() const noexcept {
  size_t bytes = 0;
  for (size_t i = 0; i < pieces_.size(); ++i) bytes += pieces_[i] != 0 ? piece_length(i) : 0;
  return bytes;
}

size_t PinnedSegment::bytes_to_seam(size_t offset) const noexcept {
  return std::min(piece_bytes_ - offset % piece_bytes_, size_ - offset);
}

void PinnedSegment::register_with(const CudaApi& api) {
  const LastErrorGuard last_error(api);
  const RelaxedCapture relaxed(api);
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const cudaError_t error = api.host_register(data_ + i * piece_bytes_, piece_length(i),
                                                cudaHostRegisterPortable | cudaHostRegisterMapped);
    if (error != cudaSuccess) {
      unregister(api);
      fail_register(error, size_);
    }
    pieces_[i] = 1;
  }
}

void PinnedSegment::unregister(const CudaApi& api) noexcept {
  const LastErrorGuard last_error(api);
  const RelaxedCapture relaxed(api);
  for (size_t i = 0; i < pieces_.size(); ++i) {
    if (pieces_[i] == 0) continue;
    const cudaError_t error = api.host_unregister(data_ + i * piece_bytes_);
    // After a reset of the device it is unregistered already.
    if (error == cudaSuccess || error == cudaErrorHostMemoryNotRegistered) pieces_[i] = 0;
  }
}

}  // namespace dlbridge::cuda
