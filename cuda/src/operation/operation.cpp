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

// Below this a kernel and a transfer are over before events between two streams would pay.
constexpr int64_t kNoOverlapBytes = 64 * 1024;

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

Operation::Operation(Engine& engine, DeviceContext& device, CheckedStream outer, Runs runs)
    : engine_(engine),
      device_(device),
      outer_(outer),
      waiter_use_(device.waiter_for(outer.handle)),
      on_outer_stream_(outer.ordered && runs == Runs::on_outer_stream) {
  copies_ = on_outer_stream_ ? outer.handle : device.copy_stream_of(waiter()).copies();
  last_transfer_ = copies_;
  if (outer_.ordered && !on_outer_stream_) ready_ = device.events().take();
  done_ = device.sleeping_events().take();
}

Operation::~Operation() {
  if (begun_ && !finished_) quiesce();
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
  if (on_outer_stream_ || !outer_.ordered) {
    begun_ = true;
    return;
  }
  const CudaApi& api = device_.api();
  check(api.event_record(ready_.get(), outer_.handle), "cudaEventRecord");
  begun_ = true;
  check(api.stream_wait_event(copies_, ready_.get(), 0), "cudaStreamWaitEvent");
}

bool Operation::can_copy(const TensorView& source, const TensorView& target, cudaMemcpyKind kind) {
  const CopyStep step = plan_copy(source, target);
  if (step.kind != CopyKind::pack || kind == cudaMemcpyDeviceToDevice) return true;
  return is_one_run(kind == cudaMemcpyDeviceToHost ? target : source);
}

bool Operation::copy_pinned(const TensorView& source, const TensorView& target,
                            const TensorView& host, cudaMemcpyKind kind) {
  try {
    copy(source, target, kind);
    return true;
  } catch (const CudaError& error) {
    // Of a ring's pieces some may be on their way.
    if (error.cuda_code() != cudaErrorInvalidValue || engine_.pool().holds(host.data) ||
        ring_ != nullptr)
      throw;
    return false;
  }
}

void Operation::copy(const TensorView& source, const TensorView& target, cudaMemcpyKind kind) {
  const CopyStep step = plan_copy(source, target);
  bytes_ += source.nbytes();
  if (step.kind != CopyKind::pack) {
    last_transfer_ = copies_;
    return issue(device_.api(), engine_.pool(), step, kind, copies_);
  }
  if (kind == cudaMemcpyDeviceToHost) return pack(source, target);
  if (kind == cudaMemcpyHostToDevice) return unpack(source, target);
  if (unpacked_ && kernels_ != copies_) device_.order(kernels_, copies_);
  launch(source, target, copies_);
}

// On the outer stream kernels run there, and a copy stream makes the transfers meanwhile, unless
// there is too little to overlap. Otherwise both are streams of the copy stream.
void Operation::prepare_ring(int64_t bytes) {
  CopyStream& own = device_.copy_stream_of(waiter());
  if (kernels_ == nullptr) {
    kernels_ = on_outer_stream_ ? copies_ : own.kernels();
    if (!on_outer_stream_ && outer_.ordered)
      check(device_.api().stream_wait_event(kernels_, ready_.get(), 0), "cudaStreamWaitEvent");
  }
  if (transfers_ == nullptr || bytes > kNoOverlapBytes)
    transfers_ = bytes > kNoOverlapBytes ? own.copies() : copies_;
  ring_ = &own.ring();
  const std::lock_guard lock(ring_->mutex);
  slot_bytes_ = ring_->reserve(std::max(bytes, largest_), device_.events(),
                               device_.allocation_stream(), own.copies());
}

void Operation::pack(const TensorView& source, const TensorView& target) {
  prepare_ring(target.nbytes());
  Pieces pieces(source, target, slot_bytes_);
  int64_t strides[PackParams::kMaxRank];
  while (pieces.next()) {
    const std::lock_guard lock(ring_->mutex);
    const TensorView slot = dense_slot(pieces.target(), ring_->enter(kernels_), strides);
    launch(pieces.source(), slot, kernels_);
    ring_->filled(kernels_, transfers_);
    issue(device_.api(), engine_.pool(), plan_copy(slot, pieces.target()), cudaMemcpyDeviceToHost,
          transfers_);
    ring_->read(transfers_);
  }
  last_transfer_ = transfers_;
}

void Operation::unpack(const TensorView& source, const TensorView& target) {
  prepare_ring(source.nbytes());
  // The host side is passed as the target, so that its pieces are one run each.
  Pieces pieces(target, source, slot_bytes_);
  int64_t strides[PackParams::kMaxRank];
  while (pieces.next()) {
    const std::lock_guard lock(ring_->mutex);
    const TensorView slot = dense_slot(pieces.target(), ring_->enter(transfers_), strides);
    issue(device_.api(), engine_.pool(), plan_copy(pieces.target(), slot), cudaMemcpyHostToDevice,
          transfers_);
    ring_->filled(transfers_, kernels_);
    launch(slot, pieces.source(), kernels_);
    ring_->read(kernels_);
  }
  last_transfer_ = transfers_;
  unpacked_ = true;
}

bool Operation::gather(std::span<const GatherParams::Run> runs) {
  if (!device_.has_kernels()) return false;
  auto* const first = static_cast<std::byte*>(runs.front().target);
  auto* const end = static_cast<std::byte*>(runs.back().target) + runs.back().bytes;
  try {
    prepare_ring(end - first);
  } catch (const CudaError& error) {
    if (error.code() != ErrorCode::out_of_memory) throw;
    return false;
  }
  bytes_ += end - first;
  for (size_t i = 0; i < runs.size();) {
    const std::lock_guard lock(ring_->mutex);
    std::byte* const slot = ring_->enter(kernels_);
    auto* const begin = static_cast<std::byte*>(runs[i].target);
    const auto place_of = [&](size_t k) { return static_cast<std::byte*>(runs[k].target) - begin; };
    const auto is_in_slot = [&](size_t k) {
      return k < runs.size() && place_of(k) + runs[k].bytes <= slot_bytes_;
    };
    CopyStep transfer{};
    while (is_in_slot(i)) {
      GatherParams params{};
      for (; params.count < GatherParams::kMaxRuns && is_in_slot(i); ++i) {
        params.runs[params.count++] = {runs[i].source, slot + place_of(i), runs[i].bytes};
        transfer.bytes = place_of(i) + runs[i].bytes;
      }
      check(device_.api().gather(params, kernels_), "a gather kernel");
    }
    ring_->filled(kernels_, transfers_);
    transfer.kind = CopyKind::flat;
    transfer.source = slot;
    transfer.target = begin;
    issue(device_.api(), engine_.pool(), transfer, cudaMemcpyDeviceToHost, transfers_);
    ring_->read(transfers_);
  }
  last_transfer_ = transfers_;
  return true;
}

void Operation::launch(const TensorView& source, const TensorView& target, cudaStream_t stream) {
  const CopyStep step = plan_copy(source, target);
  if (step.kind != CopyKind::pack)
    return issue(device_.api(), engine_.pool(), step, cudaMemcpyDeviceToDevice, stream);
  if (!device_.has_kernels()) {
    throw Error(ErrorCode::unsupported_device, "device",
                "cuda:" + std::to_string(device_.index()) +
                    " has an architecture that this build of dlbridge has no kernels for, and "
                    "copies between these strides need one: make x contiguous on the device first");
  }
  check(device_.api().launch(choose_kernel(step.pack), step.pack, stream), "a pack kernel");
}

void Operation::record_transfer(const PooledEvent& event) {
  check(device_.api().event_record(event.get(), last_transfer_), "cudaEventRecord");
}

void Operation::end(bool outer_waits) {
  const CudaApi& api = device_.api();
  for (const cudaStream_t other : {kernels_, transfers_}) {
    if (other != nullptr && other != copies_) device_.order(other, copies_);
  }
  check(api.event_record(done_.get(), copies_), "cudaEventRecord");
  if (outer_waits && outer_.ordered && !on_outer_stream_)
    check(api.stream_wait_event(outer_.handle, done_.get(), 0), "cudaStreamWaitEvent");
  ended_ = true;
}

void Operation::wait() {
  const cudaError_t answer = wait_for_event(device_.api(), done_.get(), bytes_);
  if (device_.fails_with(answer)) leak(answer);
  check(answer, "waiting for a copy");
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
    if (i != 0) check(device_.api().event_record(ticket.get(), copies_), "cudaEventRecord");
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
    if (ended_ && done_) {  // perhaps on a waiter's thread, which knows no stream of the caller
      answer = api.event_synchronize(done_.get());
    } else {
      for (const cudaStream_t each : {kernels_, transfers_, copies_}) {
        const cudaError_t one = each == nullptr ? cudaSuccess : api.stream_synchronize(each);
        if (answer == cudaSuccess) answer = one;
      }
    }
  } catch (const CudaError& error) {
    answer = error.cuda_code();
  }
  if (answer != cudaSuccess) leak(answer);
}

void Operation::complete() noexcept {
  try {
    wait();
  } catch (const Error& error) {
    return abandon(error);
  } catch (const std::exception& error) {
    return abandon(Error(ErrorCode::out_of_memory, "memory", "no memory left to finish a copy"));
  }
  waiter_use_.reset();
  if (completion_) completion_->succeed();
}

void Operation::abandon(const Error& error) noexcept {
  if (begun_ && !finished_) quiesce();
  // The source is released before the failure becomes visible.
  held_.clear();
  shared_.clear();
  waiter_use_.reset();
  if (completion_) completion_->fail(error);
}

void Operation::post_after(double seconds, std::unique_ptr<Operation> operation) noexcept {
  if (seconds > 0 && operation->ends_within(seconds)) return operation->complete();
  post(std::move(operation));
}

void Operation::post(std::unique_ptr<Operation> operation) noexcept {
  Waiter& waiter = operation->waiter();
  waiter.post(std::move(operation));
}

}  // namespace dlbridge::cuda
