// SPDX-License-Identifier: Apache-2.0
// Operation: one staging from its first event to the release of its memory. Owns everything that
// its copies use: source, target, pinned blocks, events. Its caller waits for it, or a waiter does,
// and Futures share it.
//
//   made -> begin() -> copy()... -> end() -> wait(), leave() or complete()
// On an exception before end() it waits for the enqueued work before it releases memory; if that
// fails, it leaks the memory and marks the device as failed. Thread: one at a time, but for
// FutureState.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "copy/copy_plan.h"
#include "device/call.h"
#include "dlbridge/cuda/future.h"

namespace dlbridge::cuda {

/// Whether an operation has ended, and how. Thread: any.
class FutureState {
 public:
  FutureState() noexcept = default;
  FutureState(const FutureState&) = delete;
  FutureState& operator=(const FutureState&) = delete;
  ~FutureState();

  bool done() const noexcept { return done_.load(std::memory_order_acquire); }
  bool wait(double seconds) const noexcept;
  int fd();
  /// Returns the error, or null. Requires: done.
  const Error* error() const noexcept { return error_ ? &*error_ : nullptr; }

  /// Called once, by the operation. Wakes all waiting threads. Keeps only the code of `error` if
  /// there is no memory for the message.
  void end(const Error* error = nullptr) noexcept;

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::atomic<bool> done_{false};
  std::optional<Error> error_;
  int fd_ = -1;
  const unsigned forks_ = forks();  // of the process in which the operation runs
};

/// A Future that is done, of copies that move nothing.
Future ended_with(Future::Results results);

class Operation final : public FutureState {
 public:
  /// Where the copies run. On the outer stream they need no dependency and delay no other stream,
  /// but its later work waits for them.
  enum class Runs : uint8_t { on_outer_stream, on_copy_stream };

  /// The outer stream is that of the call; without one it runs on a copy stream. Throws Error
  /// (device_failed), holding nothing.
  explicit Operation(const Call& call, Runs runs = Runs::on_outer_stream);
  ~Operation();

  Engine& engine() const noexcept { return engine_; }
  DeviceContext& device() const noexcept { return device_; }
  Waiter& waiter() const noexcept { return *waiter_; }

  /// Calls the deleter at the end. Null deleters are ignored.
  void hold(Deleter deleter) { held_.push_back(deleter); }
  /// Reserves room, so that holding cannot fail.
  void expect_loans(size_t count) { held_.reserve(held_.size() + count); }
  /// Holds a block and frees it when the copies have ended. Returns its memory.
  std::byte* hold(PinnedBlock&& block) { return blocks_.emplace_back(std::move(block)).data(); }
  /// Holds the block of the results and attaches it to `slab` when the copies have succeeded.
  void hold_results(PinnedBlock&& block, SharedLoan slab) noexcept;
  /// Copies `from` to `to` on the host when the copies have ended. Throws std::bad_alloc.
  void copy_on_host(const TensorView& from, const TensorView& to);

  /// Makes a copy stream wait for the work that the outer stream has enqueued.
  void begin();
  /// Returns true if copy() can do this: by one call, or through the device's slots if the host
  /// side is one run.
  static bool can_copy(const TensorView& source, const TensorView& target, Direction kind);
  /// As copy(), where another library may have registered the host side. Returns false, with
  /// nothing that lasts done, if CUDA refuses it because that was done in several pieces: it counts
  /// as pageable then.
  bool copy_pinned(const TensorView& source, const TensorView& target, Direction kind);
  /// Enqueues a copy. Requires: the host side is page-locked. Throws Error (device_failed,
  /// out_of_memory).
  void copy(const TensorView& source, const TensorView& target, Direction kind);
  /// Copies small runs of device memory to one page-locked block, in which the targets lie one
  /// behind the other: a kernel collects them in the device's slots, whence they go as one. Returns
  /// false, with nothing done, if the device has no kernels, no memory pools or no room. Requires:
  /// kGatherBytes at most in each. Throws Error (device_failed).
  bool gather(std::span<const GatherParams::Run> runs);
  static constexpr int64_t kGatherBytes = 64 * 1024;
  /// Records `event` after the last access of host memory by copy(): behind a transfer, not behind
  /// the kernel that unpacks it.
  void record_transfer(const PooledEvent& event);
  /// Records the end. With `outer_waits` the outer stream waits for it.
  void end(bool outer_waits);

  /// Waits for the end on this thread. Throws the error of the copies.
  void wait();
  /// Retires the blocks with events, without waiting. Requires: nothing else is left to do.
  void leave();
  /// Calls `enqueue`, if there is one, then waits for the end on this thread and ends the
  /// FutureState.
  void complete(const std::function<void()>& enqueue = {}) noexcept;
  /// Polls for the end on this thread, at most `seconds`. Returns true if the copies have ended.
  bool ends_within(double seconds) const noexcept;

 private:
  void enqueue(const CopyStep& step, Direction kind, CUstream stream);
  void copy_through_slots(const TensorView& source, const TensorView& target, bool to_host);
  void prepare_slots(int64_t bytes);
  void release_held() noexcept;
  void leak(CUresult cause) noexcept;
  void quiesce() noexcept;
  void finish(const Error* error) noexcept;

  Engine& engine_;
  DeviceContext& device_;
  CheckedStream outer_;
  WaiterUse waiter_;
  CopyStream& own_;
  const bool on_outer_stream_;
  CUstream copies_ = nullptr;     // ends last
  CUstream kernels_ = nullptr;    // of the slots
  CUstream transfers_ = nullptr;  // between the slots and the host
  CUstream last_transfer_ = nullptr;
  PooledEvent ready_;
  PooledEvent done_;
  int64_t slot_bytes_ = 0;
  int64_t bytes_ = 0;  // moved so far

  std::vector<Deleter> held_;
  std::vector<PinnedBlock> blocks_;
  PinnedBlock result_;
  SharedLoan slab_;
  std::vector<std::pair<Loan, Loan>> host_copies_;

  bool begun_ = false;  // something was enqueued
  bool ended_ = false;  // done_ was recorded after all of it
  bool finished_ = false;
  bool unpacked_ = false;  // kernels_ wrote the target
};

}  // namespace dlbridge::cuda
