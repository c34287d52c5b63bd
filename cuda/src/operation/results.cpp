// SPDX-License-Identifier: Apache-2.0
#include "operation/results.h"

#include "dlbridge/copy.h"
#include "operation/completion_state.h"
#include "operation/operation.h"

namespace dlbridge::cuda {
namespace {

constexpr int64_t kAlignment = 64;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

Loan pageable_scratch(Operation& operation, const TensorView& target) {
  Loan memory = allocate_like(target);
  Loan description;
  description.describe(memory.view());
  operation.hold(std::move(memory));
  return description;
}

Loan empty_result(const TensorView& source) {
  return allocate_like(dense_like(source, true).view());
}

HostResult::HostResult(PinnedPool& pool, const TensorView& source, bool row_major)
    : loan_(dense_like(source, row_major)),
      block_(pool.take(static_cast<size_t>(source.nbytes()))) {
  if (block_)
    loan_.view().data = block_.data();
  else
    loan_ = allocate_like(loan_.view());
}

Loan HostResult::finish(PinnedBlock&& block) noexcept {
  if (block) loan_.attach(std::move(block).into_deleter());
  return std::move(loan_);
}

HostResults::HostResults(PinnedPool& pool, std::span<const TensorView> sources, bool row_major) {
  int64_t bytes = 0;
  for (const TensorView& source : sources) bytes += aligned(source.nbytes());
  block_ = pool.take(static_cast<size_t>(bytes));
  slab_ = SharedLoan(Loan());
  int64_t offset = 0;
  for (const TensorView& source : sources) {
    Loan result = dense_like(source, row_major);
    if (source.is_empty() || !block_) {
      result = allocate_like(result.view());
    } else {
      result.view().data = block_.data() + offset;
      result.attach(slab_.reference());
      offset += aligned(source.nbytes());
    }
    results_.emplace_back(std::move(result));
  }
}

Future ended_with(Loan&& source, Loan&& result) {
  auto state = std::make_shared<FutureState>(std::vector{SharedLoan(std::move(result))});
  source.reset();
  state->completion()->succeed();
  return Future(std::move(state));
}

Future ended_with_empty(std::span<Loan> sources) {
  std::vector<SharedLoan> results;
  for (const Loan& source : sources) results.emplace_back(empty_result(source.view()));
  auto state = std::make_shared<FutureState>(std::move(results));
  for (Loan& source : sources) source.reset();
  state->completion()->succeed();
  return Future(std::move(state));
}

}  // namespace dlbridge::cuda
