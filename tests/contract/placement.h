// SPDX-License-Identifier: Apache-2.0
// Placement: where the elements of a tensor lie in a block of memory, with guards around them. Two
// blocks of one placement can be compared whole, so what lies between the elements is compared too.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend.h"
#include "dlbridge/loan.h"
#include "dlbridge/tensor_view.h"
#include "shaped.h"

namespace dlbridge::contract {

using Dims = std::vector<int64_t>;

inline constexpr uint8_t kPoison = 0xCD;

/// What a tensor is like.
struct Spec {
  Dims shape;
  Dims strides;
  DType dtype = test::kFloat32;
  bool padded = false;      ///< elements below a byte
  size_t misalignment = 0;  ///< bytes from a multiple of 64 to where the elements begin
};

class Placement {
 public:
  explicit Placement(Spec spec);
  Placement(const Placement&) = delete;
  Placement& operator=(const Placement&) = delete;

  const Spec& spec() const { return spec_; }
  /// Of a block, guards included.
  size_t block_bytes() const { return block_bytes_; }
  /// The tensor in a block. Borrows shape and strides of this object.
  TensorView view(void* block, Device device = Device(DeviceType::cpu)) const;

 private:
  Spec spec_;
  size_t first_ = 0;  // of the first element, in the block
  size_t block_bytes_ = 0;
};

/// A block of host memory, aligned as a placement needs it, poisoned.
class Block {
 public:
  explicit Block(size_t bytes);
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block();

  uint8_t* data() { return memory_; }
  std::span<uint8_t> bytes() { return {memory_, size_}; }

 private:
  uint8_t* memory_;
  size_t size_;
};

/// Bytes without two neighbouring elements alike.
Bytes pattern(size_t bytes, uint32_t seed);

/// Dense bytes of the elements of a host view, row-major.
Bytes elements_of(const TensorView& view);

}  // namespace dlbridge::contract
