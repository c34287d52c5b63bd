// SPDX-License-Identifier: Apache-2.0
// Operation: one staging from its first event to the release of its memory. Owns everything that
// its copies use: source, target, pinned blocks, events, device memory.
//
//   made -> begin() -> copy()... -> end() -> finish(), by the caller or by a waiter
// On an exception before end() it waits for the enqueued work before it releases memory; if that
// fails, it leaks the memory and marks the device as failed. Thread: one
// at a time.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "device/engine.h"
#include "operation/completion_state.h"

namespace dlbridge::cuda {

class Operation final : public Completion {
 public:
  /// Where the copies run. On the outer stream they need no dependency and delay no other stream,
  /// but its later work waits for them.
  enum class Runs : uint8_t { on_outer_stream, on_copy_stream };

  /// Without an outer stream it runs on a copy stream. Throws Error (device_failed), holding
  /// nothing.
  Operation(Engine& engine, DeviceContext& device, CheckedStream outer,
            Runs runs = Runs::on_outer_stream);
  ~Operation() override;

  Engine& engine() const noexcept { return engine_; }
  DeviceContext& device() const noexcept { return device_; }
  Waiter& waiter() const noexcept { return waiter_use_->waiter(); }

  /// Holds until completion.
  void hold(Loan&& loan) { held_.push_back(std::move(loan)); }
  void hold(SharedLoan loan) { shared_.push_back(std::move(loan)); }
  /// Reserves room for `count` loans, so that holding them cannot fail. Requires: no call between
  /// that holds other loans, as enqueue_to_host() does.
  void expect_loans(size_t count) { held_.reserve(held_.size() + count); }
  /// Holds a block and frees it when the copies have ended.
  std::byte* hold(PinnedBlock&& block);
  /// Holds a block that take_result() returns when the copies have ended.
  std::byte* hold_result(PinnedBlock&& block) noexcept;
  PinnedBlock take_result() noexcept { return std::move(result_); }
  /// Reserves room for `count` blocks, so that holding them cannot fail.
  void expect_blocks(size_t count) { blocks_.reserve(blocks_.size() + count); }
  /// Holds a block and attaches it to `loan` on success. Requires: no one uses `loan` before.
  void give_on_success(PinnedBlock&& block, SharedLoan loan);
  /// Copies `from` to `to` on the host when the copies have ended. Throws std::bad_alloc.
  void copy_on_host(const TensorView& from, const TensorView& to);
  void publish_to(std::shared_ptr<CompletionState> completion) noexcept {
    completion_ = std::move(completion);
  }

  /// Sets the size of the largest copy() to come.
  void expect(int64_t largest) noexcept { largest_ = largest; }

  /// Makes a copy stream wait for the work that the outer stream has enqueued.
  void begin();
  /// Returns true if copy() can do this: by one call, or through the device ring if the host side
  /// is one run.
  static bool can_copy(const TensorView& source, const TensorView& target, cudaMemcpyKind kind);
  /// Copies between `source` and `target`, of which `host` is memory that another library has
  /// registered or the pool's. Returns false, with nothing that lasts done, if CUDA refuses it
  /// because the memory was registered in several pieces: it counts as pageable then. Otherwise as
  /// copy().
  bool copy_pinned(const TensorView& source, const TensorView& target, const TensorView& host,
                   cudaMemcpyKind kind);
  /// Enqueues a copy. Requires: the host side is page-locked. Throws Error (device_failed,
  /// out_of_memory).
  void copy(const TensorView& source, const TensorView& target, cudaMemcpyKind kind);
  /// Copies small runs of device memory to one page-locked block, in which the targets lie one
  /// behind the other: a kernel collects them in the device ring, whence they go as one. Returns
  /// false, with nothing done, if the device has no kernels or no room for a ring. Requires:
  /// kGatherBytes at most in each. Throws Error (device_failed).
  bool gather(std::span<const GatherParams::Run> runs);
  static constexpr int64_t kGatherBytes = 64 * 1024;
  /// Records `event` after the last access of host memory by copy(): behind a transfer, not behind
  /// the kernel that unpacks it.
  void record_transfer(const PooledEvent& event);
  /// Records the end. With `outer_waits` the outer stream waits for it.
  void end(bool outer_waits);

  /// Waits for the end on this thread and completes. Throws the error of the copies.
  void wait();
  /// Polls for the end on this thread, at most `seconds`. Returns true if the copies have ended.
  bool ends_within(double seconds) const noexcept;
  /// Retires the blocks with events, without waiting. Requires: completion has nothing else to do.
  void leave();
  /// Waits and completes, on the waiter's thread.
  void complete() noexcept override;
  /// Completes with an error that occurred before the end, on a thread without a caller.
  void abandon(const Error& error) noexcept;

  /// Passes the operation to its waiter. Requires: the waiter was started.
  static void post(std::unique_ptr<Operation> operation) noexcept;
  /// The same, but completes it on this thread if it ends within `seconds`.
  static void post_after(double seconds, std::unique_ptr<Operation> operation) noexcept;

 private:
  void pack(const TensorView& source, const TensorView& target);
  void unpack(const TensorView& source, const TensorView& target);
  void launch(const TensorView& source, const TensorView& target, cudaStream_t stream);
  void prepare_ring(int64_t bytes);
  void finish();
  void leak(cudaError_t cause) noexcept;
  void quiesce() noexcept;

  Engine& engine_;
  DeviceContext& device_;
  CheckedStream outer_;
  std::optional<WaiterUse> waiter_use_;
  const bool on_outer_stream_;
  cudaStream_t copies_ = nullptr;     // ends last
  cudaStream_t kernels_ = nullptr;    // of the ring
  cudaStream_t transfers_ = nullptr;  // between the ring and the host
  cudaStream_t last_transfer_ = nullptr;
  PooledEvent ready_;
  PooledEvent done_;
  DeviceRing* ring_ = nullptr;
  int64_t slot_bytes_ = 0;
  int64_t largest_ = 0;
  int64_t bytes_ = 0;  // moved so far

  struct HostCopy {
    Loan from;
    Loan to;
  };
  std::vector<Loan> held_;
  std::vector<SharedLoan> shared_;
  std::vector<PinnedBlock> blocks_;
  PinnedBlock result_;
  std::vector<std::pair<PinnedBlock, SharedLoan>> results_;
  std::vector<HostCopy> host_copies_;
  std::shared_ptr<CompletionState> completion_;

  bool begun_ = false;  // something was enqueued
  bool ended_ = false;  // done_ was recorded after all of it
  bool finished_ = false;
  bool unpacked_ = false;  // kernels_ wrote the target
};

}  // namespace dlbridge::cuda
