// SPDX-License-Identifier: Apache-2.0
#include "operation/results.h"

#include "dlbridge/copy.h"
#include "dlbridge/layout.h"
#include "operation/completion_state.h"
#include "operation/operation.h"

namespace dlbridge::cuda {
namespace {

constexpr int64_t kAlignment = 64;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

Loan pageable(const TensorView& like) {
  Loan loan = allocate_like(like);
  loan.view().device = Device(DeviceType::cpu);
  return loan;
}

}  // namespace

Loan describe_result(const TensorView& source, bool row_major) {
  Loan loan;
  loan.describe(source);
  TensorView& view = loan.view();
  const DType type(view.dtype);
  if (row_major || (type.is_subbyte() && !view.subbyte_padded))
    compact_strides(view.extents(), loan.strides());
  else
    dense_strides_like(source, loan.strides());
  view.device = Device(DeviceType::cpu);
  view.access = Access::writable;
  view.is_copied = true;
  view.data = nullptr;
  view.byte_offset = 0;
  return loan;
}

Loan pageable_scratch(Operation& operation, const TensorView& target) {
  Loan memory = pageable(describe_result(target, false).view());
  Loan description;
  description.describe(memory.view());
  operation.hold(std::move(memory));
  return description;
}

Loan empty_result(const TensorView& source) {
  return pageable(describe_result(source, true).view());
}

HostResult::HostResult(PinnedPool& pool, const TensorView& source, bool row_major)
    : loan_(describe_result(source, row_major)),
      block_(pool.take(static_cast<size_t>(source.nbytes()))) {
  if (block_)
    loan_.view().data = block_.data();
  else
    loan_ = pageable(loan_.view());
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
    Loan result = describe_result(source, row_major);
    if (source.is_empty() || !block_) {
      result = pageable(result.view());
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
