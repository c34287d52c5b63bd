// SPDX-License-Identifier: Apache-2.0
// Simulator: CUDA without a GPU. Fills a CudaApi table with functions of its own, whose streams,
// events, contexts, captures and memory behave as the real ones, and reports every use that is not
// ordered, whatever order the operations actually ran in.
//
// Owns everything it hands out; one simulator at a time in a process. Device memory cannot be
// touched by the host (a SIGSEGV): see read() and write(). Thread: any, unless said otherwise.
// Requires at destruction: no thread is in a call of the table, unless blocked there.
#pragma once

#include "state.h"

namespace dlbridge::cuda_sim {

class Simulator {
  struct Locked {
    Lock lock;
    State* state;
    State* operator->() const { return state; }
  };
  Locked locked() const { return {Lock(state_mutex()), state_.get()}; }

 public:
  explicit Simulator(Config config = {});
  /// Lets everything that is held go. Undelivered reports are lost.
  ~Simulator();
  Simulator(const Simulator&) = delete;
  Simulator& operator=(const Simulator&) = delete;

  /// For inject_cuda_api().
  const cuda::CudaApi& api() const noexcept { return state_->table; }

  // Memory. device_free, for both kinds, may be called only when all work on the memory is known to
  // be over; anything else is reported.
  void* device_alloc(size_t bytes, int device = 1);
  void device_free(void* memory);
  void* managed_alloc(size_t bytes, int device = 1);
  /// Device memory behind the back of all streams; no access in the sense of the race detection.
  void write(void* device_memory, const std::vector<uint8_t>& bytes);
  std::vector<uint8_t> read(const void* device_memory, size_t count) const;

  // The host as an actor. Says what test code (or code under test) does with memory itself.
  void host_wrote(const void* memory, size_t bytes) {
    locked()->host_access(ByteSet(memory, bytes), true, "write", ReportKind::race);
  }
  void host_read(const void* memory, size_t bytes) {
    locked()->host_access(ByteSet(memory, bytes), false, "read", ReportKind::race);
  }

  // Kernels of the tests, in stream order. Of a stream handle 1 or 2 the device is that of the
  // memory (of the thread's current context where there is none). None of these counts as a call.
  /// Writes `bytes` at `memory` when it runs: a producer.
  void enqueue_write(CUstream stream, void* memory, std::vector<uint8_t> bytes);
  /// Reads `count` bytes when it runs: a consumer. The result is empty until then.
  std::shared_ptr<std::vector<uint8_t>> enqueue_read(CUstream stream, const void* memory,
                                                     size_t count);
  /// Declares what it touches; `body` (which may be empty, and must not call the simulator) runs
  /// when it runs, and gets pointers through which host code may touch the memory, reads first.
  void enqueue_kernel(CUstream stream, std::vector<Range> reads, std::vector<Range> writes,
                      std::function<void(const std::vector<void*>&)> body = {});
  /// A host function as cuLaunchHostFunc enqueues it. It runs on a thread that holds the driver's
  /// lock, for which all calls of the table wait. Reported are calls by `body`, and one that waits
  /// too long: each may hold what the other needs (numba-cuda#317, rmm#2028).
  void enqueue_host_function(CUstream stream, std::function<void()> body);
  /// A kernel that kills its device when it runs.
  void enqueue_fault(CUstream stream, CUresult code);

  // Time.
  /// The devices stand still: nothing runs, synchronising calls block (pageable copies may),
  /// queries answer NotReady.
  void hold() { locked()->held = true; }
  void go() {
    const Locked state = locked();
    state->go(state->held);
  }
  /// The operations of one stream do not run; what does not depend on them does.
  void hold_stream(CUstream stream) { locked()->named_stream(stream).held = true; }
  void go_stream(CUstream stream) {
    const Locked state = locked();
    state->go(state->named_stream(stream).held);
  }
  /// Waits until `count` threads are blocked in calls. False after ten seconds.
  bool wait_until_blocked(int count) const;
  /// Runs everything that may run, and the host knows that it is over.
  void finish();
  /// The host waits for `stream` as cuStreamSynchronize does; not counted, never fails.
  void synchronize(CUstream stream);
  size_t pending_operations() const { return locked()->pending.size(); }

  // Contexts.
  /// The device's context, made if there is none; nothing is reported.
  CUcontext make_context(int device) {
    const Locked state = locked();
    state->activate(device);
    return state->primary_context(device);
  }
  /// make_context, and the calling thread's current one from now on.
  void use_device(int device);
  /// A context besides the primary one, as cuCtxCreate makes it: current on the calling thread.
  CUcontext use_user_context(int device) {
    const Locked state = locked();
    return state->thread().contexts.emplace_back(state->make_context(device, false));
  }
  /// One of a green context, as cuCtxFromGreenCtx gives it: with it the primary context is made,
  /// its streams are non-blocking, and it may be current to one thread only.
  CUcontext make_green_context(int device) {
    const Locked state = locked();
    state->activate(device);
    return state->make_context(device, true);
  }
  /// Empties the calling thread's stack of contexts.
  void use_no_device() { locked()->thread().contexts.clear(); }
  bool context_active(int device) const { return locked()->devices.at(device).active; }
  /// The devices of the calling thread's stack of contexts, the current one last.
  std::vector<int> context_stack() const;
  /// Destroys the device's context with all that lives in it, as cudaDeviceReset does.
  void reset_device(int device) { locked()->lose(device); }

  // Streams of the tests: not counted, not subject to faults, no leak.
  CUstream make_stream(unsigned flags, int device = 1) {
    return make_stream_in(make_context(device), flags);
  }
  /// The same in a context of use_user_context() or make_green_context().
  CUstream make_stream_in(CUcontext context, unsigned flags);
  /// Its handle is that of the next stream that is made.
  void destroy_stream(CUstream stream) {
    const Locked state = locked();
    state->streams.destroy(state->named_stream(stream));
  }
  /// `later` waits for what `earlier` has so far, as by an event between them, which joins captures
  /// too. Handles 1 and 2 are those of `device`. No call, no event of anybody.
  CUresult order(CUstream earlier, CUstream later, int device = 1);

  // Stream capture, as cuStreamBeginCapture and cuStreamEndCapture, the latter on the stream where
  // the capture began.
  CUresult begin_capture(CUstream stream, CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL);
  CUresult end_capture(CUstream stream);
  size_t captured_operations() const { return locked()->captured; }  ///< which do not run
  CUstreamCaptureMode capture_mode() const { return locked()->thread().mode; }  ///< this thread's

  // Failure.
  void fail(Fault fault) { locked()->faults.push_back(std::move(fault)); }
  void clear_faults() { locked()->faults.clear(); }
  int faults_struck() const { return locked()->struck; }
  /// From now on every call of this device answers `code`; what is pending never ends.
  void kill_device(int device, CUresult code) { locked()->kill(device, code); }
  void set_attribute(CUdevice_attribute attribute, int value, int device);
  void set_device_memory_limit(size_t bytes) { locked()->config.device_memory_bytes = bytes; }

  // What was seen.
  std::vector<Report> reports() const { return locked()->reports; }
  size_t reports_of(ReportKind kind) const;
  /// All reports and the trace of operations, for failure messages. Empty without a report.
  std::string complaint() const;
  void clear_reports() { locked()->reports.clear(); }
  uint64_t calls(const std::string& function) const;  ///< of a member of CudaApi
  uint64_t total_calls() const { return locked()->total; }
  std::string trace() const;
  /// Flags of every stream (event) created through the table so far.
  std::vector<unsigned> created_stream_flags() const;
  std::vector<unsigned> created_event_flags() const;
  /// event_synchronize on a pending event without CU_EVENT_BLOCKING_SYNC: burns a core.
  uint64_t spinning_waits() const { return locked()->spinning; }
  /// Streams on which operations were enqueued through the table so far, without repetition.
  std::vector<CUstream> used_streams() const;
  Leaks leaks() const;
  size_t registered_bytes() const { return locked()->registered_bytes(); }
  size_t peak_registered_bytes() const { return locked()->peak_registered; }
  /// Of malloc_async and not yet of free_async, in the order of the calls.
  size_t async_bytes() const { return locked()->async_bytes; }
  size_t peak_async_bytes() const { return locked()->peak_async; }
  void reset_peaks();

 private:
  std::unique_ptr<State> state_;
};

}  // namespace dlbridge::cuda_sim
