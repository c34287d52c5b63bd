// SPDX-License-Identifier: Apache-2.0
// Results: fresh host memory for a staging: blocks of the pinned pool, or pageable memory if the
// pool's limit does not allow one.
#pragma once

#include <span>
#include <vector>

#include "dlbridge/cuda/future.h"
#include "dlbridge/shared_loan.h"
#include "pinned/pool.h"

namespace dlbridge::cuda {

class Operation;

/// Pageable memory like `target`, dense in the same order of dimensions, that `operation` holds:
/// its description, without an owner.
Loan pageable_scratch(Operation& operation, const TensorView& target);

/// A result without elements.
Loan empty_result(const TensorView& source);

/// One result of a synchronous call.
class HostResult {
 public:
  /// Throws Error (out_of_memory, device_failed), std::bad_alloc.
  HostResult(PinnedPool& pool, const TensorView& source, bool row_major);

  const TensorView& view() const noexcept { return loan_.view(); }
  bool is_pinned() const noexcept { return static_cast<bool>(block_); }
  /// For the operation to hold while it runs.
  PinnedBlock take_block() noexcept { return std::move(block_); }
  /// The result over `block`, or over the pageable memory it was given.
  Loan finish(PinnedBlock&& block) noexcept;

 private:
  Loan loan_;
  PinnedBlock block_;
};

/// The results of one asynchronous operation or batch: one block, the slab, holds them all, each
/// aligned to 64 bytes. Every result refers to the slab, which owns the block after success.
class HostResults {
 public:
  HostResults(PinnedPool& pool, std::span<const TensorView> sources, bool row_major);

  const TensorView& view(size_t index) const noexcept { return results_[index].view(); }
  const std::vector<SharedLoan>& shared() const noexcept { return results_; }
  bool is_pinned() const noexcept { return static_cast<bool>(block_); }
  PinnedBlock take_block() noexcept { return std::move(block_); }
  const SharedLoan& slab() const noexcept { return slab_; }

 private:
  PinnedBlock block_;
  SharedLoan slab_;
  std::vector<SharedLoan> results_;
};

/// Futures that are done, for tensors without elements. Releases `source`.
Future ended_with(Loan&& source, Loan&& result);
Future ended_with_empty(std::span<Loan> sources);

}  // namespace dlbridge::cuda
