// SPDX-License-Identifier: Apache-2.0
// What surrounds every call of the table: counting, faults, the driver's state, the current
// context, captures that forbid the call, dead devices.
#pragma once

#include <type_traits>

#include "state.h"

namespace dlbridge::cuda_sim {

/// What a function needs or risks.
enum Trait : unsigned {
  kNone = 0,
  kContext = 1,   // needs a current context
  kUnsafe = 2,    // forbidden to threads that a capture concerns
  kDriver = 4,    // lets no pending work go on
  kNoDriver = 8,  // answers without a driver
};

/// A call in progress. The lock is held. What a function refuses it throws as a CUresult.
struct Caller {
  State& state;
  Lock& lock;
  ThreadState& thread;
  const char* function;

  ContextState& context() const { return *state.current(thread); }
  int device() const { return context().device; }
  /// Those of a handle; refuses handles that name none, or one that was destroyed or is lost.
  StreamState& stream(CUstream handle) const;
  EventState& event(CUevent handle) const;
  /// The same, of one that may be used now.
  EventState& usable_event(CUevent handle) const;
  StreamState& usable_stream(CUstream handle) const;
  void submit(StreamState& stream, OperationPtr operation) const {
    stream.used_through_table = true;
    state.submit(stream, std::move(operation));
  }
  [[noreturn]] void refuse(ReportKind kind, const std::string& why,
                           CUresult code = CUDA_ERROR_INVALID_VALUE) const;
};

/// Everything before the function itself.
void before_call(Caller& caller, unsigned traits);

template <class F>
CUresult call(const char* function, unsigned traits, F&& body) {
  Lock lock(state_mutex());
  if (living_state() == nullptr) return CUDA_ERROR_DEINITIALIZED;
  State& state = *living_state();
  ++state.inside;
  Caller caller{state, lock, state.thread(), function};
  CUresult result = CUDA_SUCCESS;
  try {
    before_call(caller, traits);
    result = body(caller);
  } catch (CUresult refused) {
    result = refused;
  }
  if (result != CUDA_SUCCESS && (traits & kDriver) == 0)
    state.note(std::string(function) + " answers " + std::to_string(result));
  --state.inside;
  state_changed().notify_all();
  return result;
}

template <class F>
CUresult driver_call(const char* function, F&& body) {
  return call(function, kDriver, body);
}

}  // namespace dlbridge::cuda_sim

// The functions of the table, one for each member of CudaApi, of the same name and type.
namespace dlbridge::cuda_sim::functions {

template <class Pointer>
using Function = std::remove_pointer_t<Pointer>;

#define DRIVER(member, symbol, parameters) Function<decltype(cuda::CudaApi::member)> member;
#include "runtime/cuda_api.def"
#undef DRIVER
Function<decltype(cuda::CudaApi::launch)> launch;
Function<decltype(cuda::CudaApi::gather)> gather;
Function<decltype(cuda::CudaApi::preload_kernels)> preload_kernels;

}  // namespace dlbridge::cuda_sim::functions
