// SPDX-License-Identifier: Apache-2.0
// State: what the simulator knows. Everything here is guarded by one mutex, state_mutex(); nothing
// here calls out while it is held, except the bodies of kernels, which must not call back.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string_view>
#include <thread>

#include "byte_set.h"
#include "config.h"

namespace dlbridge::cuda_sim {

struct Operation;
struct StreamState;
using OperationPtr = std::shared_ptr<Operation>;

constexpr uint8_t kPoison = 0xDB;

std::string hex(uintptr_t address);
inline std::string hex(const void* pointer) { return hex(reinterpret_cast<uintptr_t>(pointer)); }

// ---- memory.cpp

/// Pages of a memfd, mapped where no host may touch them and again where the simulator does.
class Mapping {
 public:
  Mapping(size_t bytes, bool host_accessible);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  uintptr_t begin() const { return begin_; }
  size_t bytes() const { return bytes_; }
  /// What to add to an address to get at the bytes.
  uintptr_t alias() const { return alias_ - begin_; }
  /// Frees the pages but keeps the addresses.
  void discard();

 private:
  size_t bytes_;
  uintptr_t begin_ = 0;
  uintptr_t alias_ = 0;
};

struct Allocation {
  std::shared_ptr<Mapping> mapping;
  size_t bytes = 0;
  int device = 0;
  bool managed = false;
  bool stream_ordered = false;
  bool freed = false;
  const StreamState* freed_on = nullptr;  // by free_async
  uintptr_t begin() const { return mapping->begin(); }
  uintptr_t end() const { return begin() + bytes; }
};

struct Registration {
  uintptr_t begin = 0;
  size_t bytes = 0;
  unsigned flags = 0;
  int device = 0;
  uintptr_t end() const { return begin + bytes; }
};

/// What memory a range of bytes lies in.
struct Place {
  enum Kind { pageable, pinned, device, managed, none } kind = pageable;
  std::shared_ptr<Allocation> allocation;
  int of_device = -2;   // where it is allocated or registered
  std::string trouble;  // of none
  ReportKind report = ReportKind::bad_argument;
  bool on_device() const { return kind == device || kind == managed; }
  bool on_host() const { return kind == pageable || kind == pinned || kind == managed; }
};

// ---- streams.cpp

/// What an operation, or the host, knows to be over: of each actor (a stream) the number of its
/// last operation.
class Clock {
 public:
  uint64_t at(size_t actor) const { return actor < known_.size() ? known_[actor] : 0; }
  void set(size_t actor, uint64_t number) {
    if (actor >= known_.size()) known_.resize(actor + 1);
    known_[actor] = number;
  }
  void join(const Clock& other) {
    if (known_.size() < other.known_.size()) known_.resize(other.known_.size());
    for (size_t i = 0; i < other.known_.size(); ++i)
      known_[i] = std::max(known_[i], other.known_[i]);
  }

 private:
  std::vector<uint64_t> known_;
};

/// Bytes that an operation reads or writes.
struct Access {
  ByteSet bytes;
  bool write;
  Place place;
  uintptr_t alias() const {
    return place.allocation != nullptr ? place.allocation->mapping->alias() : 0;
  }
};

struct Operation {
  uint64_t id = 0;  // also an order that is topological
  StreamState* stream = nullptr;
  std::string text;
  Clock clock;                       // what is over when this is, itself included
  uint64_t number = 0;               // of its stream
  std::vector<OperationPtr> causes;  // not yet over
  std::vector<Operation*> effects;
  std::vector<Access> accesses;
  std::function<void()> run;
  std::function<void()> host_function;
  bool releases = false;           // ends the life of the memory that it writes
  size_t poison_bytes = SIZE_MAX;  // of each run that it writes
  bool ready = false;
  bool done = false;
  bool cancelled = false;  // its memory is gone: does nothing
  int not_ready_left = -1;
  std::map<size_t, std::string> sources;  // of accesses to host memory: the bytes at the call
};

inline OperationPtr operation(std::string text) {
  return std::make_shared<Operation>(Operation{.text = std::move(text)});
}

struct Capture {
  StreamState* origin = nullptr;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  uint64_t thread = 0;
  bool invalidated = false;
  bool ended = false;
  std::map<StreamState*, Clock> streams;  // what each of them has joined
};

struct StreamState {
  enum Kind { created, legacy, per_thread } kind = created;
  CUstream handle = nullptr;
  size_t actor = 0;
  int device = 0;
  CUcontext context = nullptr;
  size_t connection = 0;  // of its device's
  unsigned flags = 0;
  bool counted = false;    // made through the table
  bool destroyed = false;  // by its owner
  bool lost = false;       // with its context
  bool held = false;
  bool used_through_table = false;
  OperationPtr tail;
  std::shared_ptr<Capture> capture;
  uint64_t numbers = 0;
  bool blocking() const { return kind != legacy && (flags & CU_STREAM_NON_BLOCKING) == 0; }
  std::string name() const {
    return (blocking() ? "blocking stream " : "stream ") + hex(handle) +
           " of cuda:" + std::to_string(device);
  }
};

struct EventState {
  CUevent handle = nullptr;
  int device = 0;
  CUcontext context = nullptr;
  unsigned flags = 0;
  bool destroyed = false;
  bool lost = false;
  OperationPtr recorded;
  std::shared_ptr<Capture> capture;  // recorded in it
  Clock captured;                    // what its record in the capture has joined
};

/// All streams, or events, there ever were. A handle is used again as soon as its owner has
/// destroyed what it named, as the driver does (rmm#649).
template <class Handle, class Each>
struct Handles {
  std::deque<Each> all;
  std::map<Handle, Each*> named;
  std::vector<Handle> free;

  void give_handle(Each& each) {
    if (free.empty()) free.push_back(reinterpret_cast<Handle>(0x57000000 + 16 * all.size()));
    each.handle = free.back();
    free.pop_back();
    named[each.handle] = &each;
  }
  Each* find(Handle handle) const {
    const auto found = named.find(handle);
    return found == named.end() ? nullptr : found->second;
  }
  void destroy(Each& each) {
    each.destroyed = true;
    free.push_back(each.handle);
  }
  /// Calls `f` with each that is neither destroyed nor lost.
  template <class F>
  void each_alive(F&& f) const {
    for (const Each& each : all) {
      if (!each.destroyed && !each.lost) f(each);
    }
  }
};

// ---- contexts.cpp

/// A device and its primary context.
struct DeviceState {
  int device = 0;
  uint64_t id = 0;  // of the context: another one after each time that it was made
  bool active = false;
  bool used_by_runtime = false;  // which does not give it up before a reset
  int retained = 0;
  CUresult dead = CUDA_SUCCESS;
  std::set<cuda::KernelId> loaded;
  size_t made_streams = 0;                          // they take the connections in turn
  std::map<size_t, OperationPtr> connection_tails;  // the last operation of each connection
};

struct ContextState {
  int device = 0;
  bool green = false;
};

struct ThreadState {
  uint64_t id = 0;
  std::vector<CUcontext> contexts;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
};

std::mutex& state_mutex();
std::condition_variable& state_changed();
std::condition_variable& blocked_changed();
using Lock = std::unique_lock<std::mutex>;

/// Throws an answer that is an error.
inline void check(CUresult answer) {
  if (answer != CUDA_SUCCESS) throw answer;
}

struct State {
  explicit State(Config wanted);
  ~State();

  // contexts.cpp
  ThreadState& thread();
  CUcontext primary_context(int device) const;
  CUcontext make_context(int device, bool green);  // besides the primary one
  CUresult dead(int device) const { return devices.at(device).dead; }
  DeviceState* current(const ThreadState& thread);
  void activate(int device);  // as the runtime does
  void make_primary(DeviceState& device);
  void kill(int device, CUresult code);
  void lose(int device);

  // memory.cpp
  /// With `mapping` for its pages, else new ones.
  std::shared_ptr<Allocation> allocate(size_t bytes, int device, bool managed,
                                       std::shared_ptr<Mapping> mapping = nullptr);
  Place place_of(uintptr_t begin, uintptr_t end, int device);
  Access access(ByteSet bytes, bool write, int device);
  void release(uintptr_t begin, uintptr_t end, const char* how);
  /// Freed memory keeps its addresses for long, so that its use is noticed.
  void retire(Allocation& allocation);
  size_t registered_bytes() const;

  // streams.cpp
  StreamState& new_stream(StreamState::Kind kind, CUcontext context, unsigned flags, bool counted);
  /// The stream of a handle, null if there is none; 0, 1 and 2 are those of the thread's context if
  /// that is one of `device`, else of the device's primary context.
  StreamState* find_stream(CUstream handle, int device);
  /// That which a test names; the default ones are those of `device`, if not negative, or of the
  /// thread's.
  StreamState& named_stream(CUstream handle, int device = -1);
  /// Enqueues after what the stream itself orders and `after`, unless the stream is captured, and
  /// lets the schedule go on.
  void submit(StreamState& stream, OperationPtr operation, const OperationPtr& after = nullptr);
  void record(EventState& event, StreamState& stream, std::string_view call);
  void wait(StreamState& stream, EventState& event, std::string_view call);

  // schedule.cpp
  bool runnable(const Operation& operation) const;
  void become_ready(Operation& operation);
  void execute(const OperationPtr& operation);
  void complete(const OperationPtr& operation);
  std::vector<OperationPtr> closure(const OperationPtr& target) const;
  void progress(const OperationPtr& target);  // runs its closure as far as it may
  void run_host_function(const OperationPtr& operation);
  bool step_one();
  std::vector<OperationPtr> all_pending() const;
  void run_all();
  void drift();          // what the schedule runs on its own at a call
  void go(bool& which);  // no longer
  /// Blocks until `target` is over; the host knows then.
  CUresult wait_for(Lock& lock, OperationPtr target);
  CUresult query(const OperationPtr& target);
  CUresult fate(const OperationPtr& target) const;  // why it never ends
  /// Registration, unregistration and the creation of streams may wait for all running work
  /// (NCCL#48, mlx#2099, yaksa#228). They do where the configuration says so.
  void wait_for_running(Lock& lock);
  uint64_t draw(uint64_t below) { return random() % below; }

  // races.cpp
  void check_races(const Operation& operation);
  void host_access(const ByteSet& bytes, bool write, const std::string& what, ReportKind kind);
  void keep_sources(Operation& operation);
  void check_sources(const Operation& operation);
  void host_knows(const Operation& operation);
  void poison(const Operation& operation);

  // capture.cpp; what is refused is thrown as a CUresult
  bool forbidden(const ThreadState& thread, std::string_view call);  // invalidates and reports
  void invalidate(Capture& capture, const std::string& why);
  /// Refuses a stream that may not be used now: captures broken and reported.
  void enter_stream(StreamState& stream, std::string_view call);
  /// The captures of blocking streams, which forbid the use of the legacy one.
  std::vector<Capture*> captures_in_the_way(const StreamState& legacy) const;
  void capture_wait(StreamState& stream, EventState& event);

  // simulator.cpp
  void report(ReportKind kind, std::string text);
  void note(std::string line);

  Config config;
  cuda::CudaApi table{};
  std::mt19937_64 random;
  int inside = 0;
  bool ending = false;

  std::map<uint64_t, ThreadState> threads;
  std::map<int, DeviceState> devices;
  std::map<CUcontext, ContextState> contexts;
  uint64_t context_ids = 0;
  std::map<std::pair<int, int>, int> attributes;

  std::map<uintptr_t, std::shared_ptr<Allocation>> allocations;  // the freed ones too
  std::deque<uintptr_t> graveyard;
  std::map<uintptr_t, Registration> registrations;
  size_t peak_registered = 0;
  size_t async_bytes = 0;  // of malloc_async and not yet of free_async
  size_t peak_async = 0;

  Handles<CUstream, StreamState> streams;
  std::map<std::pair<CUcontext, uint64_t>, StreamState*> default_streams;  // of a thread; 0: legacy
  Handles<CUevent, EventState> events;
  std::map<uint64_t, OperationPtr> pending;
  std::vector<OperationPtr> unobserved;  // with accesses, and not known to the host
  Clock host;
  uint64_t operation_ids = 0;
  bool held = false;
  int blocked = 0;
  uint64_t spinning = 0;

  int host_functions = 0;      // begun and not over
  uint64_t driver_thread = 0;  // that runs one of them
  std::vector<std::thread> driver_threads;

  std::vector<std::shared_ptr<Capture>> captures;
  size_t captured = 0;

  std::vector<Fault> faults;
  int struck = 0;
  std::map<std::string, uint64_t> counts;
  uint64_t total = 0;

  std::vector<Report> reports;
  std::deque<std::string> lines;
};

/// The simulator's state of which the table is in use; null outside a simulator's life.
State*& living_state();

/// Fills the table (call.cpp).
void fill_table(cuda::CudaApi& table);

}  // namespace dlbridge::cuda_sim
