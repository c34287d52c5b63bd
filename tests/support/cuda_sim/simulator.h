// SPDX-License-Identifier: Apache-2.0
// Simulator: CUDA without a GPU. Fills a CudaApi table with functions of its own, whose streams,
// events, contexts, captures and memory behave as the real ones, and reports every use that is not
// ordered, whatever order the operations actually ran in.
//
// Owns everything it hands out; one simulator at a time in a process. Device memory cannot be
// touched by the host (a SIGSEGV): see read() and write(). Thread: any, unless said otherwise.
// Requires at destruction: no thread is in a call of the table, unless blocked there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/cuda_api.h"

namespace dlbridge::cuda_sim {

/// Which of the legal orders operations run in.
enum class Schedule : uint8_t {
  eager,   ///< as soon as they may
  lazy,    ///< only when a thread waits: the causes of what it waits for and no more
  random,  ///< some at each call, drawn from the seed
};

enum class Driver : uint8_t {
  present,
  absent,     ///< cudaGetDeviceCount answers 35, the driver's version is 0
  too_old,    ///< 35, and a version below the runtime's
  no_device,  ///< 100
};

/// What an "Async" copy from or to pageable memory does; all are allowed.
enum class Pageable : uint8_t {
  drawn,        ///< from the seed, at each copy
  synchronous,  ///< the copy is over when the call returns
  staged,       ///< the source is read during the call, the rest happens later
  deferred,     ///< everything happens later
};

struct Config {
  Schedule schedule = Schedule::eager;
  uint64_t seed = 1;
  int devices = 2;
  /// Devices that have a context from the start.
  std::vector<int> active = {1};
  Driver driver = Driver::present;
  Pageable pageable = Pageable::drawn;
  /// Before a query makes pending work progress it answers NotReady up to so many times.
  int max_not_ready = 3;
  /// Hardware queues of a device (CUDA_DEVICE_MAX_CONNECTIONS, 8 unless set). More streams share
  /// them, in the order in which they were made, and delay each other, so tests that hold streams
  /// have more than they make, and those of that very thing few.
  int connections = 1 << 20;
  /// Registration, unregistration and the creation of streams wait for all running work.
  bool waits_for_running = false;
  size_t max_registration_bytes = size_t{1} << 30;
  size_t max_registered_bytes_total = SIZE_MAX;
  /// What malloc_async may have in use on a device.
  size_t device_memory_bytes = SIZE_MAX;
  uint8_t poison = 0xDB;
  /// The device gives out one block again after the other, as an allocator does; otherwise no
  /// address twice.
  bool reuse_addresses = false;
};

enum class ReportKind : uint8_t {
  race,                 ///< overlapping bytes, one side writing, no order between the two
  host_source_changed,  ///< the host wrote to what an enqueued copy had still to read
  freed_while_pending,  ///< memory freed while work on it might still run
  seam_crossed,         ///< one copy over the border of a registration
  capture_broken,       ///< a call that a stream capture forbids
  context_created,      ///< a context that the test did not announce
  context_destroyed,    ///< the last reference to a context in use was released
  wrong_context,        ///< a handle used in another context than its own
  lazy_kernel_load,     ///< a first launch that had not been preloaded: loading synchronises
  bad_argument,
  use_after_destroy,   ///< a handle or memory that is no more
  interpreter_locked,  ///< a call of a thread that holds Python's GIL
  driver_locked,       ///< a call by a host function, or one that waits for it and it for the call
};
const char* name(ReportKind kind);

/// Sets what tells whether the calling thread holds the lock of an interpreter. With a usable
/// driver such a call is reported: a thread of the driver's may wait for that lock, and the call
/// for that thread.
void set_interpreter_check(bool (*holds_lock)());

/// Waits until every other thread of the process sleeps. A fork then finds no lock held, not even
/// those of an allocator.
void wait_for_other_threads();

struct Report {
  ReportKind kind;
  std::string text;
};

/// What was created through the table and not freed, and what the tests allocated.
struct Leaks {
  size_t async_allocations = 0;
  size_t streams = 0;
  size_t events = 0;
  size_t registrations = 0;
  size_t retained_contexts = 0;
  size_t test_allocations = 0;  ///< of device_alloc and managed_alloc
  bool none() const {
    return async_allocations + streams + events + registrations + retained_contexts == 0;
  }
  std::string text() const;
};

/// Bytes touched by an operation of a test.
struct Range {
  const void* data;
  size_t bytes;
};

/// Fails the n-th call, counted from now on. The call has no effect.
struct Fault {
  std::string function;  ///< a member of CudaApi; empty: any call that can fail
  uint64_t nth = 1;      ///< from 1
  cudaError_t code = cudaErrorUnknown;
  bool sticky = false;  ///< the device that is current then is dead from there on
};

struct State;

class Simulator {
 public:
  explicit Simulator(Config config = {});
  /// Lets everything that is held go. Undelivered reports are lost.
  ~Simulator();
  Simulator(const Simulator&) = delete;
  Simulator& operator=(const Simulator&) = delete;

  /// For inject_cuda_api(). The driver's functions are null without a usable driver.
  const cuda::CudaApi& api() const noexcept;

  // Memory. device_free and managed_free may be called only when all work on the memory is known
  // to be over; anything else is reported.
  void* device_alloc(size_t bytes, int device = 1);
  void device_free(void* memory);
  void* managed_alloc(size_t bytes, int device = 1);
  void managed_free(void* memory);
  /// Device memory behind the back of all streams; no access in the sense of the race detection.
  void write(void* device_memory, const void* bytes, size_t count);
  void write(void* device_memory, const std::vector<uint8_t>& bytes);
  std::vector<uint8_t> read(const void* device_memory, size_t count) const;

  // The host as an actor. Says what test code (or code under test) does with memory itself.
  void host_wrote(const void* memory, size_t bytes);
  void host_read(const void* memory, size_t bytes);

  // Kernels of the tests, in stream order. Of a stream handle 1 or 2 the device is that of the
  // memory (of the thread's current context where there is none). None of these counts as a call.
  /// Writes `bytes` at `memory` when it runs: a producer.
  void enqueue_write(cudaStream_t stream, void* memory, std::vector<uint8_t> bytes);
  /// Reads `count` bytes when it runs: a consumer. The result is empty until then.
  std::shared_ptr<std::vector<uint8_t>> enqueue_read(cudaStream_t stream, const void* memory,
                                                     size_t count);
  /// Declares what it touches; `body` (which may be empty, and must not call the simulator) runs
  /// when it runs, and gets pointers through which host code may touch the memory, reads first.
  void enqueue_kernel(cudaStream_t stream, std::vector<Range> reads, std::vector<Range> writes,
                      std::function<void(const std::vector<void*>&)> body = {});
  /// A host function as cudaLaunchHostFunc enqueues it. It runs on a thread that holds the driver's
  /// lock, for which all calls of the table wait. A call by `body` is reported, and where a call
  /// waits while `body` sleeps, that is reported and the call goes on: each may hold what the other
  /// needs (numba-cuda#317, rmm#2028).
  void enqueue_host_function(cudaStream_t stream, std::function<void()> body);
  /// A kernel that kills its device when it runs.
  void enqueue_fault(cudaStream_t stream, cudaError_t code);

  // Time.
  /// The devices stand still: nothing runs, synchronising calls block (pageable copies may),
  /// queries answer NotReady.
  void hold();
  void go();
  /// The operations of one stream do not run; what does not depend on them does.
  void hold_stream(cudaStream_t stream);
  void go_stream(cudaStream_t stream);
  /// Threads that are blocked in a synchronising call, or by a host function.
  int blocked_threads() const;
  /// Waits until `count` threads are, in a host function too. False after ten seconds.
  bool wait_until_blocked(int count) const;
  /// Runs one operation that may run. False if there is none.
  bool step();
  /// Runs everything that may run, and the host knows that it is over.
  void finish();
  /// The host waits for `stream` as cudaStreamSynchronize does; not counted, never fails.
  void synchronize(cudaStream_t stream);
  size_t pending_operations() const;

  // Contexts.
  /// The device's context, made if there is none; nothing is reported.
  CUcontext make_context(int device);
  /// make_context, and the calling thread's current one from now on.
  void use_device(int device);
  /// A context of `device` besides the primary one, as cuCtxCreate makes it; current on the calling
  /// thread.
  CUcontext use_user_context(int device);
  /// One of a green context, as cuCtxFromGreenCtx gives it: with it the primary context is made,
  /// its streams are non-blocking, and it may be current to one thread only.
  CUcontext make_green_context(int device);
  /// Empties the calling thread's stack of contexts.
  void use_no_device();
  bool context_active(int device) const;
  /// The devices of the calling thread's stack of contexts, the current one last.
  std::vector<int> context_stack() const;
  /// Destroys the device's context with all that lives in it, as cudaDeviceReset does: memory,
  /// streams and events are gone, registrations of it too.
  void reset_device(int device);

  // Streams of the tests: not counted, not subject to faults, no leak.
  cudaStream_t make_stream(unsigned flags, int device = 1);
  /// The same in a context of use_user_context() or make_green_context().
  cudaStream_t make_stream_in(CUcontext context, unsigned flags);
  /// Its handle is that of the next stream that is made.
  void destroy_stream(cudaStream_t stream);
  /// `later` waits for what `earlier` has so far, as by an event between them, which joins captures
  /// too. Handles 1 and 2 are those of `device`. No call, no event of anybody.
  cudaError_t order(cudaStream_t earlier, cudaStream_t later, int device = 1);

  // Stream capture, as cudaStreamBeginCapture and cudaStreamEndCapture.
  cudaError_t begin_capture(cudaStream_t stream,
                            cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal);
  cudaError_t end_capture(cudaStream_t stream);
  /// Operations that went into captures instead of running.
  size_t captured_operations() const;
  /// The calling thread's mode.
  cudaStreamCaptureMode capture_mode() const;

  // Failure.
  void fail(Fault fault);
  void clear_faults();
  /// How many of the faults asked for have struck.
  int faults_struck() const;
  /// From now on every call of this device answers `code`; what is pending never ends.
  void kill_device(int device, cudaError_t code);
  void set_attribute(cudaDeviceAttr attribute, int value, int device = -1);  ///< -1: all
  void set_device_memory_limit(size_t bytes);
  void set_registration_limit(size_t bytes);

  // What was seen.
  std::vector<Report> reports() const;
  size_t reports_of(ReportKind kind) const;
  /// All reports and the trace of operations, for failure messages. Empty without a report.
  std::string complaint() const;
  void clear_reports();
  /// Calls of a member of CudaApi so far.
  uint64_t calls(const std::string& function) const;
  /// Calls of any member that can fail.
  uint64_t total_calls() const;
  std::string trace() const;
  /// Flags of every stream (event) created through the table so far.
  std::vector<unsigned> created_stream_flags() const;
  std::vector<unsigned> created_event_flags() const;
  /// event_synchronize on a pending event without cudaEventBlockingSync: burns a core.
  uint64_t spinning_waits() const;
  /// Streams on which operations were enqueued through the table so far, without repetition.
  std::vector<cudaStream_t> used_streams() const;
  Leaks leaks() const;
  size_t registered_bytes() const;
  size_t peak_registered_bytes() const;
  /// Of malloc_async and not yet of free_async, in the order of the calls.
  size_t async_bytes() const;
  size_t peak_async_bytes() const;
  void reset_peaks();

 private:
  std::unique_ptr<State> state_;
};

}  // namespace dlbridge::cuda_sim
