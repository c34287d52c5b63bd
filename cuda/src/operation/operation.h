// Operation: one staging from its first event to the last thing it gives back. Owns everything that
// its copies use: source, target, pinned blocks, events, device memory.
//
//   made -> begin() -> copy()... -> end() -> finish(), by the caller or by the copy stream's waiter
//
// An exception before end() quiesces: what was enqueued is waited for, so that nothing it uses is
// given back too early; if that fails, too, all of it is leaked and the device is dead. Thread: one
// at a time.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "copy/device_ring.h"
#include "device/engine.h"
#include "operation/completion_state.h"

namespace dlbridge::cuda {

class Operation final : public Completion {
 public:
  /// On a copy stream of its own, ordered with `outer` by events. Throws Error (device_failed),
  /// holding nothing.
  Operation(Engine& engine, DeviceContext& device, CheckedStream outer);
  ~Operation() override;

  /// Does all its work on the outer stream itself: for copies too small to be worth a dependency.
  /// Requires: not begun, an ordered stream.
  void run_on_outer_stream() noexcept;
  /// The same, and still of its copy stream, whose waiter may see its end. Requires also: not the
  /// per-thread stream, which is another one there.
  void run_on_outer_stream_with_waiter() noexcept;

  Engine& engine() const noexcept { return engine_; }
  DeviceContext& device() const noexcept { return device_; }
  bool on_outer_stream() const noexcept { return on_outer_stream_; }
  CopyStream& copy_stream() const noexcept { return copy_stream_use_->copy_stream(); }

  /// Holds until settled.
  void hold(Loan&& loan) { held_.push_back(std::move(loan)); }
  void hold(SharedLoan loan) { shared_.push_back(std::move(loan)); }
  /// Room for so many loans, so that holding them cannot fail. What holds loans of its own, as
  /// bring() does, comes before.
  void expect_loans(size_t count) { held_.reserve(held_.size() + count); }
  /// A block that is free again once the copies have ended.
  std::byte* hold(PinnedBlock&& block);
  /// A block that take_result() gives out once the copies have ended.
  std::byte* hold_result(PinnedBlock&& block) noexcept;
  PinnedBlock take_result() noexcept { return std::move(result_); }
  /// Room for so many blocks, so that holding them cannot fail.
  void expect_blocks(size_t count) { blocks_.reserve(blocks_.size() + count); }
  /// A block that becomes the owner of `loan`, which is shown to nobody before that.
  void give_on_success(PinnedBlock&& block, SharedLoan loan);
  /// The host copies `from` to `to` once the copies have ended. Throws std::bad_alloc.
  void copy_on_host(const TensorView& from, const TensorView& to);
  void publish_to(std::shared_ptr<CompletionState> completion) noexcept {
    completion_ = std::move(completion);
  }

  /// No copy() will be of more bytes than this.
  void expect(int64_t largest) noexcept { largest_ = largest; }

  /// Puts the copy stream's streams behind what the outer one has enqueued.
  void begin();
  /// Whether copy() can do this: by one call, or through the device ring where the host side is one
  /// run.
  static bool can_copy(const TensorView& source, const TensorView& target, cudaMemcpyKind kind);
  /// Enqueues. The host side is page-locked. Throws Error (device_failed, out_of_memory).
  void copy(const TensorView& source, const TensorView& target, cudaMemcpyKind kind);
  /// Records `event` behind the copies so far.
  void record(const PooledEvent& event);
  /// Records the end. With `outer_waits` the outer stream waits for it.
  void end(bool outer_waits);

  /// Waits for the end on this thread (spinning where `spin`) and settles. Throws what went wrong.
  void wait(bool spin);
  /// Watches for the end on this thread, at most `seconds`. Whether complete() would not wait.
  bool ends_within(double seconds) const noexcept;
  /// Lets the copies end by themselves: blocks go back to the pool when they have. Requires:
  /// nothing else has to happen then.
  void leave();
  /// Waits and settles on the waiter's thread.
  void complete() noexcept override;
  /// An error that stops the operation before its end, on a thread that can tell nobody else.
  void abandon(const Error& error) noexcept;

  /// Hands the operation to the copy stream's waiter. Requires: the waiter was started.
  static void post(std::unique_ptr<Operation> operation) noexcept;
  /// The same, unless the end is seen here within `seconds`: then it is settled by this thread.
  static void post_after(double seconds, std::unique_ptr<Operation> operation) noexcept;

 private:
  void pack(const TensorView& source, const TensorView& target);
  void unpack(const TensorView& source, const TensorView& target);
  void launch(const TensorView& source, const TensorView& target, cudaStream_t stream);
  DeviceRing& ring(int64_t bytes);
  void finish();
  void leak(cudaError_t cause) noexcept;
  void quiesce() noexcept;

  Engine& engine_;
  DeviceContext& device_;
  CheckedStream outer_;
  std::optional<CopyStreamUse> copy_stream_use_;
  cudaStream_t copies_ = nullptr;
  cudaStream_t kernels_ = nullptr;
  PooledEvent ready_;
  PooledEvent done_;
  std::optional<DeviceRing> ring_;
  int64_t largest_ = 0;

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

  bool on_outer_stream_ = false;
  bool begun_ = false;  // something was enqueued
  bool ended_ = false;  // done_ stands behind all of it
  bool finished_ = false;
  bool kernels_used_ = false;
};

}  // namespace dlbridge::cuda
