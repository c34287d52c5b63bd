// SPDX-License-Identifier: Apache-2.0
#include "operation/operation.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <mutex>
#include <string>

#include "copy/issue.h"
#include "dlbridge/copy.h"
#include "dlbridge/layout.h"
#include "runtime/cuda_error.h"
#include "runtime/guards.h"

namespace dlbridge::cuda {
namespace {

// Below this a kernel and a transfer are over before events between two streams would pay.
constexpr int64_t kNoOverlapBytes = 64 * 1024;

// Memory that a failed device may still write to: never freed. Reachable, so that leak checkers do
// not report it.
void leak_memory(Deleter deleter) noexcept {
  static std::mutex mutex;
  static auto& leaked = *new std::vector<Deleter>;
  const std::lock_guard lock(mutex);
  try {
    leaked.push_back(deleter);
  } catch (const std::bad_alloc&) {
    // Then they may report it.
  }
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

Operation::Operation(const Call& call, Runs runs)
    : engine_(call.engine),
      device_(call.device),
      outer_(call.stream),
      waiter_(device_.waiter_for(outer_.handle)),
      own_(device_.copy_stream_of(*waiter_)),
      on_outer_stream_(outer_.ordered && runs == Runs::on_outer_stream) {
  copies_ = on_outer_stream_ ? outer_.handle : own_.copies();
  last_transfer_ = copies_;
  if (outer_.ordered && !on_outer_stream_) ready_ = device_.events().take();
  done_ = device_.events().take();
}

Operation::~Operation() {
  if (begun_ && !finished_) quiesce();
  release_held();
}

void Operation::hold_results(PinnedBlock&& block, SharedLoan slab) noexcept {
  result_ = std::move(block);
  slab_ = std::move(slab);
}

void Operation::copy_on_host(const TensorView& from, const TensorView& to) {
  auto& [mine, other] = host_copies_.emplace_back();
  mine.describe(from);
  other.describe(to);
}

void Operation::begin() {
  if (on_outer_stream_ || !outer_.ordered) {
    begun_ = true;
    return;
  }
  const CudaApi& api = device_.api();
  check(api.event_record(ready_.get(), outer_.handle), "cuEventRecord");
  begun_ = true;
  check(api.stream_wait_event(copies_, ready_.get(), 0), "cuStreamWaitEvent");
}

bool Operation::can_copy(const TensorView& source, const TensorView& target, Direction kind) {
  const CopyStep step = plan_copy(source, target);
  if (step.kind != CopyKind::pack || kind == Direction::on_device) return true;
  return is_one_run(kind == Direction::to_host ? target : source);
}

bool Operation::copy_pinned(const TensorView& source, const TensorView& target, Direction kind) {
  try {
    copy(source, target, kind);
    return true;
  } catch (const CudaError& error) {
    const TensorView& host = kind == Direction::to_host ? target : source;
    // Of the pieces that pass through slots some may be on their way.
    if (error.cuda_code() != CUDA_ERROR_INVALID_VALUE || engine_.pool().holds(host.data) ||
        kernels_ != nullptr)
      throw;
    return false;
  }
}

void Operation::copy(const TensorView& source, const TensorView& target, Direction kind) {
  const CopyStep step = plan_copy(source, target);
  bytes_ += source.nbytes();
  if (kind != Direction::on_device && step.kind == CopyKind::pack)
    return copy_through_slots(source, target, kind == Direction::to_host);
  if (kind != Direction::on_device)
    last_transfer_ = copies_;
  else if (unpacked_)
    device_.order(kernels_, copies_);
  enqueue(step, kind, copies_);
}

void Operation::enqueue(const CopyStep& step, Direction kind, CUstream stream) {
  const CudaApi& api = device_.api();
  if (step.kind != CopyKind::pack) return issue(api, engine_.pool(), step, kind, stream);
  if (!device_.has_kernels()) {
    throw Error(ErrorCode::unsupported_device, "device",
                "cuda:" + std::to_string(device_.index()) +
                    " is a GPU that the driver cannot compile dlbridge's kernels for, and copies "
                    "between these strides need one: make x contiguous on the device first");
  }
  check(api.launch(choose_kernel(step.pack), step.pack, stream), "a pack kernel");
}

// On the outer stream kernels run there, and a copy stream makes the transfers meanwhile, unless
// there is too little to overlap. Otherwise both are streams of the copy stream.
void Operation::prepare_slots(int64_t bytes) {
  const std::lock_guard lock(own_.mutex);
  if (kernels_ == nullptr) {
    kernels_ = on_outer_stream_ ? copies_ : own_.kernels();
    if (!on_outer_stream_ && outer_.ordered)
      check(device_.api().stream_wait_event(kernels_, ready_.get(), 0), "cuStreamWaitEvent");
  }
  if (transfers_ == nullptr || bytes > kNoOverlapBytes)
    transfers_ = bytes > kNoOverlapBytes ? own_.copies() : copies_;
  slot_bytes_ = own_.reserve(bytes, device_.events(), device_.allocation_stream());
}

// Packs piece after piece into a slot and copies it to the host, or the reverse.
void Operation::copy_through_slots(const TensorView& source, const TensorView& target,
                                   bool to_host) {
  prepare_slots(target.nbytes());
  // The host side is passed as the target, so that its pieces are one run each.
  const TensorView& host = to_host ? target : source;
  Pieces pieces(to_host ? source : target, host, slot_bytes_);
  int64_t strides[PackParams::kMaxRank];
  TensorView slot;
  const TensorView& from = to_host ? pieces.source() : pieces.target();
  const TensorView& to = to_host ? pieces.target() : pieces.source();
  const CUstream first = to_host ? kernels_ : transfers_;
  const CUstream second = to_host ? transfers_ : kernels_;
  while (pieces.next()) {
    slot = pieces.target();
    slot.strides = strides;
    compact_strides(slot.extents(), strides);
    const std::lock_guard lock(own_.mutex);
    slot.data = own_.enter(first);
    enqueue(plan_copy(from, slot), to_host ? Direction::on_device : Direction::to_device, first);
    device_.order(first, second);
    enqueue(plan_copy(slot, to), to_host ? Direction::to_host : Direction::on_device, second);
    own_.read(second);
  }
  last_transfer_ = transfers_;
  unpacked_ |= !to_host;
}

bool Operation::gather(std::span<const GatherParams::Run> runs) {
  if (!device_.has_kernels()) return false;
  auto* const first = static_cast<std::byte*>(runs.front().target);
  auto* const end = static_cast<std::byte*>(runs.back().target) + runs.back().bytes;
  try {
    prepare_slots(end - first);
  } catch (const CudaError& error) {
    if (error.code() == ErrorCode::device_failed) throw;
    return false;
  }
  bytes_ += end - first;
  for (size_t i = 0; i < runs.size();) {
    const std::lock_guard lock(own_.mutex);
    std::byte* const slot = own_.enter(kernels_);
    auto* const begin = static_cast<std::byte*>(runs[i].target);
    const auto place_of = [&](size_t k) { return static_cast<std::byte*>(runs[k].target) - begin; };
    const auto is_in_slot = [&](size_t k) {
      return k < runs.size() && place_of(k) + runs[k].bytes <= slot_bytes_;
    };
    int64_t bytes = 0;  // in the slot
    while (is_in_slot(i)) {
      GatherParams params{};
      for (; params.count < GatherParams::kMaxRuns && is_in_slot(i); ++i) {
        params.runs[params.count++] = {runs[i].source, slot + place_of(i), runs[i].bytes};
        bytes = place_of(i) + runs[i].bytes;
      }
      check(device_.api().gather(params, kernels_), "a gather kernel");
    }
    device_.order(kernels_, transfers_);
    issue(device_.api(), engine_.pool(), flat_copy(slot, begin, bytes), Direction::to_host,
          transfers_);
    own_.read(transfers_);
  }
  last_transfer_ = transfers_;
  return true;
}

void Operation::record_transfer(const PooledEvent& event) {
  check(device_.api().event_record(event.get(), last_transfer_), "cuEventRecord");
}

void Operation::end(bool outer_waits) {
  const CudaApi& api = device_.api();
  for (const CUstream other : {kernels_, transfers_}) {
    if (other != nullptr) device_.order(other, copies_);
  }
  check(api.event_record(done_.get(), copies_), "cuEventRecord");
  if (outer_waits && outer_.ordered && !on_outer_stream_)
    check(api.stream_wait_event(outer_.handle, done_.get(), 0), "cuStreamWaitEvent");
  ended_ = true;
}

void Operation::wait() {
  const CUresult answer = wait_for_event(device_.api(), done_.get(), bytes_);
  if (device_.fails_with(answer)) leak(answer);
  check(answer, "waiting for a copy");
  finished_ = true;
  for (const auto& [from, to] : host_copies_) copy_host(from.view(), to.view());
  if (result_) slab_.loan().attach(std::move(result_).into_deleter());
  slab_ = {};
}

void Operation::leave() {
  for (PinnedBlock& block : blocks_) {
    PooledEvent ticket = std::move(done_);
    if (!ticket) {
      ticket = device_.events().take();
      check(device_.api().event_record(ticket.get(), copies_), "cuEventRecord");
    }
    std::move(block).retire(std::move(ticket));
  }
  finished_ = true;
}

void Operation::release_held() noexcept {
  for (const Deleter& deleter : std::exchange(held_, {})) {
    if (deleter) deleter.release(deleter.context);
  }
}

// The copies may still run: the memory that they use is never reused.
void Operation::leak(CUresult cause) noexcept {
  finished_ = true;
  device_.mark_dead(cause);
  for (PinnedBlock& block : blocks_) {
    if (block) std::move(block).leak();  // leave() may have moved some away
  }
  if (result_) std::move(result_).leak();
  for (const Deleter& deleter : std::exchange(held_, {})) leak_memory(deleter);
  ready_.leak();
  done_.leak();
}

void Operation::quiesce() noexcept {
  finished_ = true;
  const CudaApi& api = device_.api();
  CUresult answer = CUDA_SUCCESS;
  try {
    const CallGuard guard(api, device_.context());
    if (ended_ && done_) {  // perhaps on a waiter's thread, which knows no stream of the caller
      answer = api.event_synchronize(done_.get());
    } else {
      for (const CUstream each : {kernels_, transfers_, copies_}) {
        const CUresult one = each == nullptr ? CUDA_SUCCESS : api.stream_synchronize(each);
        if (answer == CUDA_SUCCESS) answer = one;
      }
    }
  } catch (const CudaError& error) {
    answer = error.cuda_code();
  }
  if (answer != CUDA_SUCCESS) leak(answer);
}

bool Operation::ends_within(double seconds) const noexcept {
  const std::chrono::duration<double> longest(std::min(seconds, 1e9));  // the clock ends later
  const auto until = std::chrono::steady_clock::now() +
                     std::chrono::duration_cast<std::chrono::nanoseconds>(longest);
  return poll_event(device_.api(), done_.get(), until) != CUDA_ERROR_NOT_READY;
}

void Operation::complete(const std::function<void()>& enqueue) noexcept {
  try {
    if (enqueue) enqueue();
    wait();
    finish(nullptr);
  } catch (const Error& error) {
    finish(&error);
  } catch (const std::exception&) {
    const Error error(ErrorCode::out_of_memory, "memory", "no memory left to finish a copy");
    finish(&error);
  }
}

// Releases all before the end becomes visible: Futures may outlive the device.
void Operation::finish(const Error* error) noexcept {
  if (begun_ && !finished_) quiesce();
  release_held();
  blocks_.clear();
  result_ = {};
  ready_ = {};
  done_ = {};
  waiter_.reset();
  FutureState::end(error);
}

}  // namespace dlbridge::cuda
