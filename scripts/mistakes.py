# SPDX-License-Identifier: Apache-2.0
"""Known mistakes in the CUDA module, as patches: scripts/mutate.py applies each to a copy of one source file.

Every `old` text must stand in its file, or the gate ends with an error. `found_by` is a filter for GoogleTest.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """One or more replacements in one file of cuda/src, and the tests that must fail with them."""

    name: str
    what: str
    file: str
    patches: tuple[tuple[str, str], ...]  # (old, new)
    found_by: str


RECORD_READY = '  check(api.event_record(ready_.get(), outer_.handle), "cudaEventRecord");\n'
WAIT_FOR_READY = '  check(api.stream_wait_event(copies_, ready_.get(), 0), "cudaStreamWaitEvent");\n'
RECORD_DONE = '  check(api.event_record(done_.get(), copies_), "cudaEventRecord");\n'
OUTER_WAITS = "  if (outer_waits && outer_.ordered && !on_outer_stream_)\n"
COMPLETE = "void Operation::complete() noexcept {\n"
BESIDE_PRODUCER = "*OrderOfEveryWay.CopiesInOrder/large_async_without_snapshot"
BORROWED = "*OrderOfEveryWay.CopiesInOrder/large_sent_async_borrowed"
RINGS = "StagingOrder.RingSlotsWaitForReuse"

MISTAKES = [
    Mistake("drop_ready_record", "no event is recorded on the caller's stream before the copy",
            "operation/operation.cpp", ((RECORD_READY, ""),), BESIDE_PRODUCER),
    Mistake("drop_wait_for_producer", "the copy stream does not wait for the producer",
            "operation/operation.cpp", ((WAIT_FOR_READY, ""),), BESIDE_PRODUCER),
    Mistake("drop_wait_for_consumer", "the copy stream does not wait for the consumer",
            "operation/operation.cpp", ((WAIT_FOR_READY, ""),), BORROWED),
    Mistake("drop_done_record", "the end of the copies is not recorded",
            "operation/operation.cpp", ((RECORD_DONE, ""),), "*OrderOfEveryWay.CopiesInOrder/large"),
    Mistake("never_on_callers_stream", "a copy is not ordered before the producer's next work",
            "operation/operation.cpp",
            (("      on_outer_stream_(outer.ordered && runs == Runs::on_outer_stream) {",
              "      on_outer_stream_(false) {"), (OUTER_WAITS, "  if (false)\n")),
            "StagingOrder.SnapshotDelaysProducer"),
    Mistake("drop_consumers_wait", "the consumer does not wait for the kernels that unpack",
            "operation/operation.cpp",
            (("    kernels_ = on_outer_stream_ ? copies_ : own.kernels();", "    kernels_ = own.kernels();"),
             ("    if (other != nullptr && other != copies_) device_.order(other, copies_);", "    ;")),
            "*OrderOfEveryWay.CopiesInOrder/strided_sent_from_pinned"),
    Mistake("record_ready_after_waiting", "the copy stream waits for the event before it is recorded",
            "operation/operation.cpp",
            ((RECORD_READY, ""), (WAIT_FOR_READY, WAIT_FOR_READY + RECORD_READY)), BESIDE_PRODUCER),
    Mistake("record_done_before_last_chunk", "the end is recorded before the last piece",
            "operation/operation.cpp",
            ((RECORD_DONE, ""),
             ("  if (step.kind != CopyKind::pack) {\n", "  if (step.kind != CopyKind::pack) {\n"
              "    check(device_.api().event_record(done_.get(), copies_), \"cudaEventRecord\");\n")),
            "*OrderOfEveryWay.CopiesInOrder/large"),
    Mistake("release_source_at_submit", "the source is released when the copy is enqueued",
            "operation/operation.cpp",
            (("  Waiter& waiter = operation->", "  operation->held_.clear();\n  Waiter& waiter = operation->"),),
            "*StagingAsync.HoldsSourceUntilDone*"),
    Mistake("return_slot_before_ticket", "a pinned block is free before its events have passed",
            "pinned/pool.cpp", (("      if (ticket) block->tickets.push_back(std::move(ticket));\n", ""),),
            "StagingHazards.SlotWaitsForItsCopy"),
    Mistake("skip_ring_reuse_wait", "a pinned slot is used again at once",
            "operation/bounce_ring.cpp",
            (("  check(wait_for_event(operation_.device().api(), slot.copied.get(), slot_bytes_),\n"
              '        "waiting for a slot");\n', ""),), RINGS),
    Mistake("skip_device_ring_reuse_wait", "a device slot is used again at once",
            "device/device_ring.cpp",
            (('  check(api_.stream_wait_event(first, slots_[current_].read.get(), 0), "cudaStreamWaitEvent");\n', ""),),
            RINGS),
    Mistake("skip_device_ring_filled_wait", "a device slot is read before it is filled",
            "device/device_ring.cpp",
            (('  if (first != second) check(api_.stream_wait_event(second, event.get(), 0), "cudaStreamWaitEvent");\n',
              ""),), RINGS),
    Mistake("skip_device_ring_memory_wait", "a device slot is filled before its memory is allocated",
            "device/device_ring.cpp",
            (('      check(api_.event_record(slot.read.get(), allocations), "cudaEventRecord");\n',
              "      static_cast<void>(slot);"),),
            "*OrderOfEveryWay.*"),
    Mistake("skip_join", "the end is recorded before the transfers of a copy stream",
            "operation/operation.cpp",
            (("    if (other != nullptr && other != copies_) device_.order(other, copies_);", "    ;"),),
            "*OrderOfEveryWay.*"),
    Mistake("per_thread_handle_on_worker", "the caller's stream is used on the waiting thread",
            "operation/operation.cpp",
            ((RECORD_DONE, "  if (!completion_)\n  " + RECORD_DONE),
             (COMPLETE, COMPLETE + "  device_.api().event_record(done_.get(), copies_);\n")),
            "*NumberedStreams.BelongToCallingThread/per_thread_large"),
    Mistake("blocking_copy_stream", "copy streams are ordinary streams",
            "device/copy_stream.cpp", (("cudaStreamNonBlocking", "cudaStreamDefault"),),
            "StagingOrder.CopyStreamsAreNonBlocking"),
    Mistake("drop_wait_between_streams", "order_streams() records an event and does not wait for it",
            "device/device_context.cpp",
            (('  check(api_.stream_wait_event(later, there.get(), 0), "cudaStreamWaitEvent");\n', ""),),
            "*StreamOrder*:*OrderStreams*"),
    Mistake("no_context_push", "calls are made in the context that is found",
            "runtime/guards.cpp", (("  if (callers_ == context) return;\n", "  return;\n"),),
            "*CallersThread.KeepsItsContexts/large"),
    Mistake("no_context_restore", "the caller's context is not restored",
            "runtime/guards.cpp", (("  if (!pushed_) return;\n", "  return;\n"),),
            "*CallersThread.KeepsItsContexts/large"),
    Mistake("no_capture_relax", "calls are made in the capture mode that is found",
            "runtime/guards.cpp", (("api_.thread_exchange_stream_capture_mode(&mode_);", ""),),
            "*CapturesOfOthers.SurviveOtherThreads/large"),
    Mistake("no_capture_check", "it is not checked whether the stream is being captured",
            "device/engine.cpp",
            (("  const Capture capture = capture_of(api_, handle);\n",
              "  const Capture capture{cudaSuccess, false};\n"),),
            "RefusedStreams.Captured"),
    Mistake("query_error_is_not_ready", 'an error of a query counts as "not yet"',
            "runtime/waiter.cpp",
            (("    if (answer != CUDA_ERROR_NOT_READY) return", "    if (answer == CUDA_SUCCESS) return"),),
            "DeadDevice.FailedQueryEndsWait"),
    Mistake("not_ready_is_done", '"not yet" counts as done',
            "runtime/waiter.cpp",
            (("    if (answer != CUDA_ERROR_NOT_READY) return static_cast<cudaError_t>(answer);",
              "    return answer == CUDA_ERROR_NOT_READY ? cudaSuccess : static_cast<cudaError_t>(answer);"),),
            "StagingOrder.SmallCopiesArePolled"),
    Mistake("not_ready_ticket_has_passed", 'a block is free where a query of its event says "not yet"',
            "device/engine.cpp", (("    case CUDA_ERROR_NOT_READY:\n      return 0;", "    case CUDA_ERROR_NOT_READY:\n"
                                   "      return 1;"),),
            "StagingHazards.*"),
    Mistake("failed_ticket_has_passed", "a block is free where the query of its event fails",
            "pinned/poll.cpp", (("    if (passed < 0) {\n", "    if (false) {\n"),), "PinnedPool*:DeadDevice.*"),
    Mistake("unwind_without_quiesce", "after a failure what was enqueued is not waited for",
            "operation/operation.cpp",
            (("void Operation::quiesce() noexcept {\n  finished_ = true;\n",
              "void Operation::quiesce() noexcept {\n  finished_ = true;\n  return;\n"),),
            "*FailureOnEveryPath.EveryCallIsCleanedUp/small_to_pinned"),
    Mistake("recycle_after_sticky_error", "memory in use by a failed device is used again",
            "operation/operation.cpp",
            (("  device_.mark_dead(cause);\n",
              "  blocks_.clear();\n  results_.clear();\n  result_ = {};\n  return;\n  device_.mark_dead(cause);\n"),),
            "DeadDevice.FailsAndLeaksInFlight"),
    Mistake("skip_seam_split", "copies run over the border of two registrations",
            "copy/issue.cpp", (("    if (kind == cudaMemcpyDeviceToDevice) return INT64_MAX;\n",
                                "    return INT64_MAX;\n"),),
            "StagingSeams.SplitFlatCopies"),
    Mistake("one_row_over_the_seam", "one row too many is copied before the border of two registrations",
            "copy/issue.cpp", (("(reach - step.width) / host_pitch + 1;", "(reach - step.width) / host_pitch + 2;"),),
            "StagingSeams.*"),
    Mistake("skip_deferred_free", "results are free at once",
            "pinned/pool.cpp", (("  move(block, State::deferred);\n", "  return make_free(block);\n"),),
            "StagingHazards.DroppedResultWaitsForLegacyOrder"),
    Mistake("take_unregisters", "a call that stages unregisters memory at the limit",
            "pinned/growth.cpp",
            (("    ++refused_;\n    if (least", "    lock.unlock();\n    trim(0);\n    lock.lock();\n"
              "    ++refused_;\n    if (least"),),
            "PinnedPoolTest.RefusedTakeUnregistersNothing"),
    Mistake("refusal_keeps_limit", "after a refused registration the driver is asked again and again",
            "pinned/growth.cpp", (("      limit_ = std::min(limit_, registered_ + growing_);\n", ""),),
            "PinnedPoolTest.RefusedRegistrationLowersTheLimit"),
    Mistake("poll_hides_blocks", "a take does not wait for the poll of another thread",
            "pinned/poll.cpp", (("    polling.lock();\n", "    if (!polling.try_lock()) return;\n"),),
            "PinnedPoolTest.ConcurrentPollHidesNothing"),
    Mistake("block_over_the_seam", "a small block crosses the border of two registrations",
            "pinned/pool.cpp",
            (("    if (block->bytes > piece_bytes_ && !block->segment->whole) {", "    if (false) {"),),
            "PinnedPoolTest.BlockFitsOnePiece"),
]  # fmt: skip
