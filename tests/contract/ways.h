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

enum class Side : uint8_t { host, device, on_device };

/// A call that moves a tensor.
struct Way {
  enum Call : uint8_t {
    into,   ///< memory of the caller's
    fresh,  ///< a result of the library's own
    batch,  ///< among other tensors
  };
  enum Option : unsigned {
    async = 1,
    pinned = 2,     ///< the caller's host memory
    row_major = 4,  ///< StageOptions
    borrow = 8,     ///< StageOptions
  };
  bool has(Option option) const { return (options & option) != 0; }

  const char* name;
  Side to;
  Call call;
  unsigned options = 0;
};
inline void PrintTo(const Way& way, std::ostream* out) { *out << way.name; }

const std::vector<Way>& ways_to(Side side);

/// Source to target (which a fresh result and a batch of them do not look at), in the order of
/// `stream`.
void check_way(Backend& backend, const Way& way, const Spec& source, const Spec& target,
               Stream stream);

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
