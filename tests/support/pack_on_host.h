// SPDX-License-Identifier: Apache-2.0
// Runs the bodies of the kernels on the host, where the addresses must be. Thread: any; no state.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>

#include "kernels/pack_body.h"

namespace dlbridge::cuda {

namespace host {

// Few, so that every block goes round its loop.
inline constexpr uint32_t kBlocks = 3;

template <class Unit>
void run_strided(const PackParams& params) {
  constexpr int64_t kStep = int64_t{kBlocks} * kPackThreads;
  for (int64_t thread = 0; thread < kStep; ++thread) {
    if (counts_in_32_bits(params))
      copy_strided<Unit, uint32_t>(params, thread, kStep);
    else
      copy_strided<Unit, uint64_t>(params, thread, kStep);
  }
}

template <class Unit>
void run_transpose(const PackParams& params) {
  const auto tile = std::make_unique<Tile<Unit>>();
  const auto phase = [](const auto& work) {
    for (uint32_t thread = 0; thread < kPackThreads; ++thread) work(thread);
  };
  for (uint32_t block = 0; block < kBlocks; ++block) {
    // A new block's shared memory holds anything.
    __builtin_memset(static_cast<void*>(tile.get()), 0xE5, sizeof *tile);
    transpose_block<Unit>(params, *tile, block, kBlocks, phase);
  }
}

template <class Unit>
void run(KernelId kernel, const PackParams& params) {
  if (kernel == KernelId::transpose)
    run_transpose<Unit>(params);
  else
    run_strided<Unit>(params);
}

}  // namespace host

/// Runs a kernel on the host: its blocks one after another, in each the phases, in each phase the
/// threads. Throws std::runtime_error where the device would fault for alignment,
/// std::invalid_argument for params that no kernel takes.
inline void run_on_host(KernelId kernel, const PackParams& params) {
  if (kernel == KernelId::gather) throw std::invalid_argument("a gather takes runs");
  if (kernel == KernelId::transpose && params.rank < 2)
    throw std::invalid_argument("a transpose needs two dimensions");
  switch (params.element_bytes) {
    case 1:
      return host::run<uint8_t>(kernel, params);
    case 2:
      return host::run<uint16_t>(kernel, params);
    case 4:
      return host::run<uint32_t>(kernel, params);
    case 8:
      return host::run<uint64_t>(kernel, params);
    case 16:
      return host::run<Unit16>(kernel, params);
    default:
      throw std::invalid_argument("element_bytes is " + std::to_string(params.element_bytes) +
                                  "; expected 1, 2, 4, 8 or 16");
  }
}

/// The same for a gather.
inline void run_on_host(const GatherParams& params) {
  for (int32_t i = 0; i < params.count; ++i) {
    for (uint32_t thread = 0; thread < kPackThreads; ++thread) gather_run(params.runs[i], thread);
  }
}

}  // namespace dlbridge::cuda
