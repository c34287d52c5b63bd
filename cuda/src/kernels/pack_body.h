// SPDX-License-Identifier: Apache-2.0
// The bodies of the kernels of pack_kernels.cu, as functions for the GPU's and the host's compiler:
// the phases of a block between its barriers, and the loop around them. The simulator runs the same
// code on the host, one thread after the other.
#pragma once

#include <cstdint>

#ifndef __CUDACC__
#include <stdexcept>
#include <string>
#endif

#include "kernels/pack_kernels.h"

#ifdef __CUDACC__
#define DLBRIDGE_HD __host__ __device__ __forceinline__
#else
#define DLBRIDGE_HD inline
#endif

namespace dlbridge::cuda {

inline constexpr uint32_t kPackThreads = 256;  // of a block, in one dimension
inline constexpr uint32_t kTileSide = 32;      // elements; a warp reads and writes one side at once
inline constexpr uint32_t kTileRows = kPackThreads / kTileSide;  // moved by a block at once

/// 16 bytes that move by one instruction.
struct alignas(16) Unit16 {
  uint64_t halves[2];
};

/// The shared memory of a transposing block. The odd width keeps columns off one memory bank.
template <class Unit>
struct Tile {
  Unit rows[kTileSide][kTileSide + 1];
};

template <class Unit>
DLBRIDGE_HD Unit load(const char* address) {
#ifdef __CUDACC__
  return *reinterpret_cast<const Unit*>(address);
#else
  // The device faults on such an address, so the host throws.
  if (reinterpret_cast<uintptr_t>(address) % sizeof(Unit) != 0)
    throw std::runtime_error("misaligned load of " + std::to_string(sizeof(Unit)) + " bytes");
  Unit value;
  __builtin_memcpy(&value, address, sizeof value);
  return value;
#endif
}

template <class Unit>
DLBRIDGE_HD void store(char* address, Unit value) {
#ifdef __CUDACC__
  *reinterpret_cast<Unit*>(address) = value;
#else
  if (reinterpret_cast<uintptr_t>(address) % sizeof(Unit) != 0)
    throw std::runtime_error("misaligned store of " + std::to_string(sizeof(Unit)) + " bytes");
  __builtin_memcpy(address, &value, sizeof value);
#endif
}

/// How far from the first element one lies, on both sides.
struct Offsets {
  int64_t source = 0;
  int64_t target = 0;

  DLBRIDGE_HD void advance(const PackParams& params, int32_t dim, int64_t index) {
    source += index * params.source_stride_bytes[dim];
    target += index * params.target_stride_bytes[dim];
  }
};

/// The offsets of element number `index` of the dimensions from `first` on, the innermost running
/// fastest. Index is as narrow as the number allows: division is what this costs.
template <class Index>
DLBRIDGE_HD Offsets offsets_of(const PackParams& params, int32_t first, Index index) {
  Offsets offsets;
  for (int32_t dim = first; dim + 1 < params.rank; ++dim) {
    const Index extent = static_cast<Index>(params.extent[dim]);
    const Index rest = index / extent;
    offsets.advance(params, dim, static_cast<int64_t>(index - rest * extent));
    index = rest;
  }
  if (first < params.rank) offsets.advance(params, params.rank - 1, static_cast<int64_t>(index));
  return offsets;
}

/// KernelId::strided, the only phase: one element a thread, `step` elements further each time.
template <class Unit, class Index>
DLBRIDGE_HD void copy_strided(const PackParams& params, int64_t first, int64_t step) {
  const char* source = static_cast<const char*>(params.source);
  char* target = static_cast<char*>(params.target);
  for (int64_t index = first; index < params.count; index += step) {
    const Offsets at = offsets_of<Index>(params, 0, static_cast<Index>(index));
    store<Unit>(target + at.target, load<Unit>(source + at.source));
  }
}

template <class Unit>
DLBRIDGE_HD void copy_run(const GatherParams::Run& run, uint32_t thread) {
  const char* source = static_cast<const char*>(run.source);
  char* target = static_cast<char*>(run.target);
  constexpr int64_t kUnit = sizeof(Unit);
  const int64_t whole = run.bytes / kUnit * kUnit;
  for (int64_t at = thread * kUnit; at < whole; at += kPackThreads * kUnit)
    store<Unit>(target + at, load<Unit>(source + at));
  for (int64_t at = whole + thread; at < run.bytes; at += kPackThreads)
    store<uint8_t>(target + at, load<uint8_t>(source + at));
}

/// KernelId::gather, the only phase: the threads of a block copy one run, in the widest unit that
/// both addresses allow.
DLBRIDGE_HD void gather_run(const GatherParams::Run& run, uint32_t thread) {
  const auto low =
      reinterpret_cast<uintptr_t>(run.source) | reinterpret_cast<uintptr_t>(run.target);
  if (low % sizeof(Unit16) == 0)
    copy_run<Unit16>(run, thread);
  else if (low % sizeof(uint32_t) == 0)
    copy_run<uint32_t>(run, thread);
  else
    copy_run<uint8_t>(run, thread);
}

/// The tiles of a transpose: dimensions 0 and 1 are cut into squares, the others counted through.
struct Tiling {
  uint32_t columns;  // tiles along dimension 0
  uint32_t rows;     // along dimension 1
  uint32_t count;

  DLBRIDGE_HD explicit Tiling(const PackParams& params)
      : columns(static_cast<uint32_t>((params.extent[0] - 1) / kTileSide + 1)),
        rows(static_cast<uint32_t>((params.extent[1] - 1) / kTileSide + 1)),
        count(columns * rows) {
    for (int32_t dim = 2; dim < params.rank; ++dim)
      count *= static_cast<uint32_t>(params.extent[dim]);
  }
};

/// Where one tile lies and how much of it is inside the extents.
struct TilePlace {
  Offsets offsets;
  uint32_t columns;
  uint32_t rows;

  DLBRIDGE_HD TilePlace(const PackParams& params, const Tiling& tiling, uint32_t tile) {
    const uint32_t row = tile / tiling.columns;
    const uint32_t outer = row / tiling.rows;
    const int64_t first_column = int64_t{tile - row * tiling.columns} * kTileSide;
    const int64_t first_row = int64_t{row - outer * tiling.rows} * kTileSide;
    offsets = offsets_of<uint32_t>(params, 2, outer);
    offsets.advance(params, 0, first_column);
    offsets.advance(params, 1, first_row);
    columns = inside(params.extent[0] - first_column);
    rows = inside(params.extent[1] - first_row);
  }

 private:
  static DLBRIDGE_HD uint32_t inside(int64_t left) {
    return left < kTileSide ? static_cast<uint32_t>(left) : kTileSide;
  }
};

/// KernelId::transpose, first phase: neighbouring threads read neighbours in the source.
template <class Unit>
DLBRIDGE_HD void load_tile(const PackParams& params, const TilePlace& place, Tile<Unit>& tile,
                           uint32_t thread) {
  const char* source = static_cast<const char*>(params.source) + place.offsets.source;
  const uint32_t row = thread % kTileSide;
  if (row >= place.rows) return;
  source += row * params.source_stride_bytes[1];
  // All loads before the first use: their latencies overlap.
  Unit values[kTileSide / kTileRows];
  for (uint32_t i = 0; i < kTileSide / kTileRows; ++i) {
    const uint32_t column = thread / kTileSide + i * kTileRows;
    if (column < place.columns)
      values[i] = load<Unit>(source + column * params.source_stride_bytes[0]);
  }
  for (uint32_t i = 0; i < kTileSide / kTileRows; ++i) {
    const uint32_t column = thread / kTileSide + i * kTileRows;
    if (column < place.columns) tile.rows[column][row] = values[i];
  }
}

/// Second phase, behind a barrier: neighbouring threads write neighbours in the target.
template <class Unit>
DLBRIDGE_HD void store_tile(const PackParams& params, const TilePlace& place,
                            const Tile<Unit>& tile, uint32_t thread) {
  char* target = static_cast<char*>(params.target) + place.offsets.target;
  const uint32_t column = thread % kTileSide;
  if (column >= place.columns) return;
  target += column * params.target_stride_bytes[0];
  for (uint32_t row = thread / kTileSide; row < place.rows; row += kTileRows)
    store<Unit>(target + row * params.target_stride_bytes[1], tile.rows[column][row]);
}

/// All phases of one block. `phase(work)` calls work(thread) for the block's threads and returns
/// when all have done it: the barrier.
template <class Unit, class Phase>
DLBRIDGE_HD void transpose_block(const PackParams& params, Tile<Unit>& tile, uint32_t block,
                                 uint32_t blocks, const Phase& phase) {
  const Tiling tiling(params);
  for (uint32_t at = block; at < tiling.count; at += blocks) {
    const TilePlace place(params, tiling, at);
    phase([&](uint32_t thread) { load_tile<Unit>(params, place, tile, thread); });
    phase([&](uint32_t thread) { store_tile<Unit>(params, place, tile, thread); });
  }
}

/// Whether 32 bits count the elements. The grid's step must not wrap them either.
DLBRIDGE_HD bool counts_in_32_bits(const PackParams& params) { return params.count <= INT32_MAX; }

}  // namespace dlbridge::cuda
