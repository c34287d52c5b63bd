// SPDX-License-Identifier: Apache-2.0
// Exports: DLPack capsules over simulated memory, whose deleters are counted, and which can free
// the memory when the last of them is released, as a producer's allocator would.
//
// Owns nothing but the descriptors; the simulator's memory belongs to its allocator.
// Deleters run on any thread, with or without the GIL.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda_sim/simulator.h"
#include "dlbridge/dlpack.h"

namespace dlbridge::python_sim {

/// The capsules of one array: how many there were, how many came back.
class Ledger : public std::enable_shared_from_this<Ledger> {
 public:
  Ledger() = default;
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;
  ~Ledger();

  void acquire() noexcept { ++exported_; }
  /// Not noexcept: a thread that Python ends while it takes the GIL is unwound through here.
  void release();
  int exported() const noexcept { return exported_; }
  int released() const noexcept { return released_; }

  /// The last release frees `memory`, which is a report where work on it may still run.
  void free_on_release(const std::shared_ptr<cuda_sim::Simulator>& simulator, uintptr_t memory);
  bool freed() const noexcept { return freed_; }
  /// Python code that each release runs, holding the GIL, as many producers' deleters do.
  void call_on_release(nanobind::object callback) { callback_ = std::move(callback); }

 private:
  std::atomic<int> exported_{0};
  std::atomic<int> released_{0};
  std::atomic<bool> freed_{false};
  std::weak_ptr<cuda_sim::Simulator> simulator_;
  uintptr_t memory_ = 0;
  nanobind::object callback_;
};

/// What a capsule says.
struct Description {
  uintptr_t data = 0;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  ///< in elements; none: row-major, said by a null pointer
  bool has_strides = true;
  DLDataType dtype{};
  DLDevice device{};
  uint64_t byte_offset = 0;
  uint64_t flags = 0;
};

/// A new capsule, which the ledger counts.
nanobind::object to_capsule(const std::shared_ptr<Ledger>& ledger, Description description,
                            bool versioned);

}  // namespace dlbridge::python_sim
