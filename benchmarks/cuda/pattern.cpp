// SPDX-License-Identifier: Apache-2.0
#include "pattern.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "raw_cuda.h"

namespace dlbridge::bars {
namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kMostLooks = int64_t{1} << 24;
constexpr int64_t kStaging = int64_t{16} << 20;

uint32_t word(uint32_t seed, int64_t index) noexcept {
  uint64_t x = ((static_cast<uint64_t>(index) + 1) * 0x9e3779b97f4a7c15u) ^ seed;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  return static_cast<uint32_t>(x >> 32);
}

uint32_t element(uint32_t seed, int64_t index, int64_t itemsize) noexcept {
  if (itemsize == 4) return word(seed, index);
  return (word(seed, index / 2) >> (16 * (index % 2))) & 0xffffu;
}

// Where the n-th element in row-major order stands, in elements.
int64_t offset_of(const TensorView& view, int64_t n) noexcept {
  int64_t offset = 0;
  for (int32_t i = view.ndim - 1; i >= 0; --i) {
    offset += n % view.shape[i] * view.strides[i];
    n /= view.shape[i];
  }
  return offset;
}

// Odd, so that steps do not fall into the same columns again and again.
int64_t step_of(const TensorView& view, Look look) noexcept {
  if (look == Look::pages) return std::max<int64_t>(1, kPage / view.itemsize() - 1);
  return view.size() / kMostLooks | 1;
}

uint32_t load(const std::byte* from, int64_t itemsize) noexcept {
  uint32_t value = 0;
  std::memcpy(&value, from, static_cast<size_t>(itemsize));
  return value;
}

std::byte* bytes_of(const TensorView& view) noexcept { return static_cast<std::byte*>(view.data); }

}  // namespace

void fill_host(void* memory, int64_t bytes, uint32_t seed) {
  auto* words = static_cast<uint32_t*>(memory);
  for (int64_t i = 0; i < bytes / 4; ++i) words[i] = word(seed, i);
}

void fill_device(void* device_memory, int64_t bytes, uint32_t seed) {
  std::vector<uint32_t> staging(static_cast<size_t>(std::min(bytes, kStaging) / 4));
  auto* to = static_cast<std::byte*>(device_memory);
  for (int64_t done = 0; done < bytes; done += kStaging) {
    const int64_t piece = std::min(kStaging, bytes - done);
    for (int64_t i = 0; i < piece / 4; ++i)
      staging[static_cast<size_t>(i)] = word(seed, done / 4 + i);
    must(cudaMemcpy(to + done, staging.data(), static_cast<size_t>(piece), cudaMemcpyHostToDevice),
         "cudaMemcpy");
  }
  must(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

void expect_content(const TensorView& got, const TensorView& source, uint32_t seed, Look look) {
  const int64_t itemsize = got.itemsize();
  const int64_t step = step_of(got, look);
  const int64_t size = got.size();
  const auto wrong = [&](int64_t n) {
    const int64_t place = offset_of(got, n);
    return load(bytes_of(got) + place * itemsize, itemsize) !=
           element(seed, offset_of(source, n), itemsize);
  };
  for (int64_t n = 0; n < size; n += step) {
    if (wrong(n))
      throw std::runtime_error("wrong content in element " + std::to_string(n) + " of " +
                               std::to_string(size));
  }
  if (size > 0 && wrong(size - 1)) throw std::runtime_error("wrong content in the last element");
}

void spoil(const TensorView& host) {
  const int64_t itemsize = host.itemsize();
  const int64_t step = step_of(host, Look::pages);
  const int64_t size = host.size();
  const auto flip = [&](int64_t n) {
    std::byte* place = bytes_of(host) + offset_of(host, n) * itemsize;
    for (int64_t i = 0; i < itemsize; ++i) place[i] = ~place[i];
  };
  for (int64_t n = 0; n < size; n += step) flip(n);
  if (size > 0 && (size - 1) % step != 0) flip(size - 1);
}

void expect_device_content(const TensorView& target, const TensorView& source, uint32_t seed,
                           Look look) {
  static std::vector<uint32_t> staging;  // kept: its pages would cost more than the copy
  staging.resize(std::max(staging.size(), static_cast<size_t>(target.nbytes() / 4)));
  must(cudaMemcpy(staging.data(), target.data, static_cast<size_t>(target.nbytes()),
                  cudaMemcpyDeviceToHost),
       "cudaMemcpy");
  TensorView got = target;
  got.data = staging.data();
  expect_content(got, source, seed, look);
}

}  // namespace dlbridge::bars
