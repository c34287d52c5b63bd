// SPDX-License-Identifier: Apache-2.0
// What surrounds every call of the table: counting, faults, the driver's state, the context that
// the runtime makes unasked, captures that forbid the call, dead devices.
#pragma once

#include <type_traits>

#include "state.h"

namespace dlbridge::cuda_sim {

/// What a function needs or risks.
enum Trait : unsigned {
  kNone = 0,
  kContext = 1,   // makes the context of device 0 where the thread has none
  kUnsafe = 2,    // forbidden to threads that a capture concerns
  kDriver = 4,    // a function of the driver: makes no context, runs nothing
  kNoDriver = 8,  // answers without a driver
};

/// A call in progress. The lock is held.
struct Caller {
  State& state;
  Lock& lock;
  ThreadState& thread;
  const char* function;

  ContextState& context() const { return *state.current(thread); }
  int device() const { return context().device; }
  StreamState* stream(cudaStream_t handle) const {
    return state.find_stream(handle, device(), thread, function);
  }
};

/// What `function` answers about a stream's or an event's handle that names none, or one that was
/// destroyed.
cudaError_t no_such_stream(const State& state, const char* function, cudaStream_t handle);
cudaError_t no_such_event(const State& state, const char* function, cudaEvent_t handle);

/// Whether a fault strikes this call; counts it.
bool fault_strikes(State& state, ThreadState& thread, const char* function, cudaError_t& code);

/// Everything before the function itself. Anything but success is the answer.
cudaError_t before_call(Caller& caller, unsigned traits);

/// Waits while a host function holds the driver's lock. False: it is that function's thread.
bool enter_driver(Caller& caller);

template <class F>
cudaError_t call(const char* function, unsigned traits, F&& body) {
  Lock lock(state_mutex());
  if (living_state() == nullptr) return cudaErrorCudartUnloading;
  State& state = *living_state();
  ++state.inside;
  Caller caller{state, lock, state.thread(), function};
  cudaError_t result = enter_driver(caller) ? before_call(caller, traits) : cudaErrorNotPermitted;
  if (result == cudaSuccess) result = body(caller);
  if (result != cudaSuccess && (traits & kDriver) == 0)
    state.note(std::string(function) + " answers " + std::to_string(result));
  --state.inside;
  state_changed().notify_all();
  return result;
}

template <class F>
CUresult driver_call(const char* function, F&& body) {
  const auto answer = [&](Caller& caller) { return static_cast<cudaError_t>(body(caller)); };
  return static_cast<CUresult>(call(function, kDriver, answer));
}

/// The calling thread's stream for an operation, checked; else the answer in `error`.
StreamState* usable_stream(Caller& caller, cudaStream_t handle, cudaError_t& error);

/// Enqueues, unless the stream is being captured, and lets the schedule go on.
void submit(Caller& caller, StreamState& stream, Draft draft);

}  // namespace dlbridge::cuda_sim
