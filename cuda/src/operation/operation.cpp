// SPDX-License-Identifier: Apache-2.0
#include "operation/operation.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <string>

#include "copy/issue.h"
#include "dlbridge/copy.h"
#include "dlbridge/layout.h"
#include "operation/leak.h"
#include "runtime/cuda_error.h"
#include "runtime/guards.h"

namespace dlbridge::cuda {
namespace {

// `memory` with the shape of `piece`, row-major: what a slot holds. Strides into `strides`.
TensorView dense_slot(const TensorView& piece, std::byte* memory, int64_t* strides) noexcept {
  compact_strides(piece.extents(), strides);
  TensorView slot = piece;
  slot.data = memory;
  slot.strides = strides;
  return slot;
}

// Returns true if the elements are one run of bytes, in any order of dimensions.
bool is_one_run(const TensorView& view) {
  int64_t strides[PackParams::kMaxRank];
  dense_strides_like(view, strides);
  TensorView dense = view;
  dense.strides = strides;
  const CopyKind kind = plan_copy(view, dense).kind;
  return kind == CopyKind::flat || kind == CopyKind::empty;
}

}  // namespace

Operation::Operation(Engine& engine, DeviceContext& device, CheckedStream outer)
    : engine_(engine),
      device_(device),
      outer_(outer),
      copy_stream_use_(device.copy_stream_for(outer.handle)) {
  copies_ = copy_stream().copies();
  kernels_ = copy_stream().kernels();
  if (outer_.ordered) ready_ = device.events().take();
  done_ = device.sleeping_events().take();
}

Operation::~Operation() {
  if (begun_ && !finished_) quiesce();
}

void Operation::run_on_outer_stream() noexcept {
  run_on_outer_stream_with_waiter();
  copy_stream_use_.reset();
}

void Operation::run_on_outer_stream_with_waiter() noexcept {
  assert(!begun_ && outer_.ordered);
  on_outer_stream_ = true;
  copies_ = kernels_ = outer_.handle;
}

std::byte* Operation::hold(PinnedBlock&& block) {
  blocks_.push_back(std::move(block));
  return blocks_.back().data();
}

std::byte* Operation::hold_result(PinnedBlock&& block) noexcept {
  result_ = std::move(block);
  return result_.data();
}

void Operation::give_on_success(PinnedBlock&& block, SharedLoan loan) {
  results_.emplace_back(std::move(block), std::move(loan));
}

void Operation::copy_on_host(const TensorView& from, const TensorView& to) {
  HostCopy copy;
  copy.from.describe(from);
  copy.to.describe(to);
  host_copies_.push_back(std::move(copy));
}

void Operation::begin() {
  if (on_outer_stream()) {
    begun_ = true;
    return;
  }
  if (!outer_.ordered) {
    begun_ = true;
    return;
  }
  const CudaApi& api = device_.api();
  check(api.event_record(ready_.get(), outer_.handle), "cudaEventRecord");
  begun_ = true;
  check(api.stream_wait_event(copies_, ready_.get(), 0), "cudaStreamWaitEvent");
  check(api.stream_wait_event(kernels_, ready_.get(), 0), "cudaStreamWaitEvent");
}

bool Operation::can_copy(const TensorView& source, const TensorView& target, cudaMemcpyKind kind) {
  const CopyStep step = plan_copy(source, target);
  if (step.kind != CopyKind::pack || kind == cudaMemcpyDeviceToDevice) return true;
  return is_one_run(kind == cudaMemcpyDeviceToHost ? target : source);
}

void Operation::copy(const TensorView& source, const TensorView& target, cudaMemcpyKind kind) {
  const CopyStep step = plan_copy(source, target);
  if (step.kind != CopyKind::pack) {
    return issue(device_.api(), engine_.pool(), step, kind, copies_);
  }
  if (kind == cudaMemcpyDeviceToHost) return pack(source, target);
  if (kind == cudaMemcpyHostToDevice) return unpack(source, target);
  if (kernels_used_) ring_->join(copies_);
  launch(source, target, copies_);
}

DeviceRing& Operation::ring(int64_t bytes) {
  if (!ring_) ring_.emplace(device_, copies_, kernels_, std::max(bytes, largest_));
  return *ring_;
}

void Operation::pack(const TensorView& source, const TensorView& target) {
  DeviceRing& slots = ring(target.nbytes());
  Pieces pieces(source, target, slots.slot_bytes());
  int64_t strides[PackParams::kMaxRank];
  while (pieces.next()) {
    const TensorView slot = dense_slot(pieces.target(), slots.enter(kernels_), strides);
    launch(pieces.source(), slot, kernels_);
    slots.filled(kernels_, copies_);
    issue(device_.api(), engine_.pool(), plan_copy(slot, pieces.target()), cudaMemcpyDeviceToHost,
          copies_);
    slots.read(copies_);
  }
}

void Operation::unpack(const TensorView& source, const TensorView& target) {
  DeviceRing& slots = ring(source.nbytes());
  // The host side is passed as the target, so that its pieces are one run each.
  Pieces pieces(target, source, slots.slot_bytes());
  int64_t strides[PackParams::kMaxRank];
  while (pieces.next()) {
    const TensorView slot = dense_slot(pieces.target(), slots.enter(copies_), strides);
    issue(device_.api(), engine_.pool(), plan_copy(pieces.target(), slot), cudaMemcpyHostToDevice,
          copies_);
    slots.filled(copies_, kernels_);
    launch(slot, pieces.source(), kernels_);
    slots.read(kernels_);
  }
  kernels_used_ = true;
}

void Operation::launch(const TensorView& source, const TensorView& target, cudaStream_t stream) {
  const CopyStep step = plan_copy(source, target);
  if (step.kind != CopyKind::pack)
    return issue(device_.api(), engine_.pool(), step, cudaMemcpyDeviceToDevice, stream);
  check(device_.api().launch(choose_kernel(step.pack), step.pack, stream), "a pack kernel");
}

void Operation::record(const PooledEvent& event) {
  if (kernels_used_) ring_->join(copies_);
  check(device_.api().event_record(event.get(), copies_), "cudaEventRecord");
}

void Operation::end(bool outer_waits) {
  const CudaApi& api = device_.api();
  if (ring_) {
    if (kernels_used_) ring_->join(copies_);
    kernels_used_ = false;  // copies_ waits for all of it
    ring_.reset();
  }
  check(api.event_record(done_.get(), copies_), "cudaEventRecord");
  if (outer_waits && outer_.ordered && !on_outer_stream())
    check(api.stream_wait_event(outer_.handle, done_.get(), 0), "cudaStreamWaitEvent");
  ended_ = true;
}

void Operation::wait(bool spin) {
  const CudaApi& api = device_.api();
  cudaError_t answer = cudaErrorNotReady;
  if (spin) {
    do {
      answer = as_runtime_error(api.event_query(done_.get()));
    } while (answer == cudaErrorNotReady);
  } else {
    answer = api.event_synchronize(done_.get());
  }
  if (is_sticky(answer)) leak(answer);
  check(answer, spin ? "cuEventQuery" : "cudaEventSynchronize");
  finish();
}

bool Operation::ends_within(double seconds) const noexcept {
  using Clock = std::chrono::steady_clock;
  const CudaApi& api = device_.api();
  const auto until = Clock::now() + std::chrono::duration<double>(seconds);
  do {
    if (api.event_query(done_.get()) != CUDA_ERROR_NOT_READY) return true;
  } while (Clock::now() < until);
  return false;
}

void Operation::leave() {
  for (size_t i = 0; i < blocks_.size(); ++i) {
    PooledEvent ticket = i == 0 ? std::move(done_) : device_.events().take();
    if (i != 0) record(ticket);
    std::move(blocks_[i]).retire(std::move(ticket));
  }
  finished_ = true;
}

// The copies have succeeded.
void Operation::finish() {
  finished_ = true;
  for (const HostCopy& copy : host_copies_) copy_host(copy.from.view(), copy.to.view());
  blocks_.clear();
  for (auto& [block, loan] : results_) loan.loan().attach(std::move(block).into_deleter());
  results_.clear();
  held_.clear();
  shared_.clear();
}

// The copies may still run: the memory that they use is never reused.
void Operation::leak(cudaError_t cause) noexcept {
  finished_ = true;
  device_.mark_dead(cause);
  for (PinnedBlock& block : blocks_) {
    if (block) std::move(block).leak();  // leave() may have moved some away
  }
  for (auto& [block, loan] : results_) std::move(block).leak();
  if (result_) std::move(result_).leak();
  for (Loan& loan : held_) dlbridge::cuda::leak(loan.release_deleter());
  for (SharedLoan& loan : shared_) dlbridge::cuda::leak(loan.loan().release_deleter());
  ready_.leak();
  done_.leak();
}

void Operation::quiesce() noexcept {
  finished_ = true;
  const CudaApi& api = device_.api();
  cudaError_t answer = cudaSuccess;
  try {
    const CallGuard guard(api, device_.context());
    answer = api.stream_synchronize(kernels_);
    const cudaError_t copied = api.stream_synchronize(copies_);
    if (answer == cudaSuccess) answer = copied;
    ring_.reset();  // after the kernels that write to its memory
  } catch (const CudaError& error) {
    answer = error.cuda_code();
  }
  if (answer != cudaSuccess) leak(answer);
}

void Operation::complete() noexcept {
  try {
    wait(false);
  } catch (const Error& error) {
    return abandon(error);
  } catch (const std::exception& error) {
    return abandon(Error(ErrorCode::out_of_memory, "memory", "no memory left to finish a copy"));
  }
  copy_stream_use_.reset();
  if (completion_) completion_->succeed();
}

void Operation::abandon(const Error& error) noexcept {
  if (begun_ && !finished_) quiesce();
  // The source is released before the failure becomes visible.
  held_.clear();
  shared_.clear();
  copy_stream_use_.reset();
  if (completion_) completion_->fail(error);
}

void Operation::post_after(double seconds, std::unique_ptr<Operation> operation) noexcept {
  if (seconds > 0 && operation->ends_within(seconds)) return operation->complete();
  post(std::move(operation));
}

void Operation::post(std::unique_ptr<Operation> operation) noexcept {
  Waiter& waiter = operation->copy_stream().waiter();
  waiter.post(std::move(operation));
}

}  // namespace dlbridge::cuda
