// SPDX-License-Identifier: Apache-2.0
// What a simulator is made with and what it answers.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
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
  absent,     ///< every call answers 3, the driver's version is 0
  too_old,    ///< a version below 12.0
  no_device,  ///< cuInit answers 100
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
  /// How long a call waits for a host function before that is reported as a deadlock.
  std::chrono::milliseconds patience{10'000};
  size_t max_registration_bytes = size_t{1} << 30;
  size_t max_registered_bytes_total = SIZE_MAX;
  /// What malloc_async may have in use.
  size_t device_memory_bytes = SIZE_MAX;
  /// Otherwise malloc_async answers NotSupported, as with some vGPU profiles.
  bool memory_pools = true;
  /// The device gives out one block again after the other, as an allocator does; otherwise no
  /// address twice.
  bool reuse_addresses = false;
};

#define DLBRIDGE_SIM_REPORTS(REPORT)                                                          \
  REPORT(race)                /* overlapping bytes, one side writing, not ordered */          \
  REPORT(host_source_changed) /* the host wrote to what an enqueued copy had still to read */ \
  REPORT(freed_while_pending) /* memory freed while work on it might still run */             \
  REPORT(seam_crossed)        /* one copy over the border of a registration */                \
  REPORT(capture_broken)      /* a call that a stream capture forbids */                      \
  REPORT(context_created)     /* a context that the test did not announce */                  \
  REPORT(context_destroyed)   /* the last reference to a context in use was released */       \
  REPORT(wrong_context)       /* a handle used in another context than its own */             \
  REPORT(lazy_kernel_load)    /* a launch of what was not preloaded: loading synchronises */  \
  REPORT(bad_argument)                                                                        \
  REPORT(use_after_destroy)  /* a handle or memory that is no more */                         \
  REPORT(interpreter_locked) /* a call of a thread that holds Python's GIL */                 \
  REPORT(driver_locked)      /* a call by a host function, or each waits for the other */

enum class ReportKind : uint8_t {
#define DLBRIDGE_SIM_REPORT(kind) kind,
  DLBRIDGE_SIM_REPORTS(DLBRIDGE_SIM_REPORT)
#undef DLBRIDGE_SIM_REPORT
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

/// What was created through the table and not freed.
struct Leaks {
  size_t async_allocations = 0;
  size_t streams = 0;
  size_t events = 0;
  size_t registrations = 0;
  size_t retained_contexts = 0;
  /// Those that are not 0, by name.
  std::map<std::string, size_t> named() const;
  bool none() const { return named().empty(); }
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
  CUresult code = CUDA_ERROR_UNKNOWN;
  bool sticky = false;  ///< the device that is current then is dead from there on
};

}  // namespace dlbridge::cuda_sim
