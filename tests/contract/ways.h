// SPDX-License-Identifier: Apache-2.0
// Ways: every call that moves a tensor, and what each promises, checked for one source and one
// target: the bytes, what lies between the elements, when the source may be written again, what is
// released and when.
//
// The truth is core's copy_host on host twins of the blocks. Failures are those of the test.
#pragma once

#include <functional>
#include <ostream>
#include <vector>

#include "backend.h"
#include "placement.h"

namespace dlbridge::contract {

enum class ToHost : uint8_t {
  backend,
  out,
  out_pinned,
  out_async,
  out_pinned_async,
  fresh,
  fresh_row_major,
  fresh_async,
  fresh_row_major_async,
  batch,
  batch_async,
};
const std::vector<ToHost>& ways_to_host();
const char* name(ToHost way);
inline void PrintTo(ToHost way, std::ostream* out) { *out << name(way); }

enum class ToDevice : uint8_t {
  backend,
  stage,
  stage_pinned,
  async,
  async_pinned,
  async_borrow,
  batch,
};
const std::vector<ToDevice>& ways_to_device();
const char* name(ToDevice way);
inline void PrintTo(ToDevice way, std::ostream* out) { *out << name(way); }

/// Device source to host target (which the ways without `out` do not look at), in the order of
/// `stream`.
void check_to_host(Backend& backend, ToHost way, const Spec& source, const Spec& target,
                   Stream stream);

/// Host source to device target.
void check_to_device(Backend& backend, ToDevice way, const Spec& source, const Spec& target,
                     Stream stream);

/// Between two device tensors, by StagingBackend::copy.
void check_on_device(Backend& backend, const Spec& source, const Spec& target, Stream stream);

/// Waits for what another thread does a moment later: the one that finished an operation drops its
/// share in the results after everybody was told of them. Ten seconds at most.
bool comes_true(const std::function<bool()>& condition);

/// A result that no caller's memory was named for: dense, aligned, writable, said to be a copy.
void expect_fresh(const TensorView& result, const TensorView& source, bool row_major);

/// Memory of a tensor on the device: `content` at first, freed at the end.
class OnDevice {
 public:
  OnDevice(Backend& backend, const Placement& placement, const Bytes& content);
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice();

  void* block() const { return block_; }
  TensorView view() const;
  Bytes read() const;

 private:
  Backend& backend_;
  const Placement& placement_;
  void* block_;
};

}  // namespace dlbridge::contract
