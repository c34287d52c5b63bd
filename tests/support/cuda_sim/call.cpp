// SPDX-License-Identifier: Apache-2.0
#include "call.h"

#include <atomic>
#include <chrono>
#include <string_view>

namespace dlbridge::cuda_sim {
namespace {

std::atomic<bool (*)()> g_holds_interpreter_lock{nullptr};

}  // namespace

void set_interpreter_check(bool (*holds_lock)()) { g_holds_interpreter_lock = holds_lock; }

namespace {

// Counts the call, which a fault may strike.
void count(Caller& caller) {
  State& state = caller.state;
  const std::string function(caller.function);
  ++state.counts[function];
  ++state.total;
  const auto holds_lock = g_holds_interpreter_lock.load();
  if (holds_lock != nullptr && state.config.driver == Driver::present && holds_lock())
    state.report(ReportKind::interpreter_locked, function + " with the GIL held");
  for (auto fault = state.faults.begin(); fault != state.faults.end(); ++fault) {
    if (!fault->function.empty() && fault->function != function) continue;
    if (--fault->nth > 0) continue;
    const CUresult code = fault->code;
    const ContextState* context = state.current(caller.thread);
    if (fault->sticky && context != nullptr) state.kill(context->device, code);
    state.faults.erase(fault);
    ++state.struck;
    state.note("FAULT in " + function + ": " + std::to_string(code));
    throw code;
  }
}

// Waits while a host function holds the driver's lock.
void enter_driver(Caller& caller) {
  constexpr int kSleepsForGood = 100;  // looks, a millisecond apart
  State& state = caller.state;
  if (state.host_functions == 0) return;
  const std::string call(caller.function);
  if (state.driver_thread == caller.thread.id)
    caller.refuse(ReportKind::driver_locked, "called by a host function", CUDA_ERROR_NOT_PERMITTED);
  ++state.blocked;
  blocked_changed().notify_all();
  for (int asleep = 0; state.host_functions != 0 && !state.driver_stuck && !state.ending;) {
    state_changed().wait_for(caller.lock, std::chrono::milliseconds(1));
    asleep = !state.driver_watches && sleeps(state.driver_task) ? asleep + 1 : 0;
    if (asleep < kSleepsForGood) continue;
    state.driver_stuck = true;
    state.report(ReportKind::driver_locked,
                 call + " waits for the end of a host function, which waits for something itself");
  }
  --state.blocked;
}

// CUDA leaves the use of a destroyed handle undefined. Drivers were seen to answer 709 (of
// cuStreamSynchronize: GenomeWorks#393; of cuEventDestroy: cudf#16018), others 400. No source
// says which call of which driver answers what, so both occur here.
CUresult no_such_handle(std::string_view function, bool destroyed) {
  for (const std::string_view each : {"stream_synchronize", "stream_is_capturing", "event_record",
                                      "event_query", "event_destroy", "free_async"}) {
    if (destroyed && function == each) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  }
  return CUDA_ERROR_INVALID_HANDLE;
}

}  // namespace

void before_call(Caller& caller, unsigned traits) {
  State& state = caller.state;
  enter_driver(caller);
  count(caller);
  if ((traits & kNoDriver) == 0 && state.config.driver != Driver::present)
    throw CUDA_ERROR_NOT_INITIALIZED;
  if ((traits & kDriver) != 0) return;
  if ((traits & kContext) != 0) {
    const ContextState* context = state.current(caller.thread);
    if (context == nullptr)
      caller.refuse(ReportKind::wrong_context, "none is current", CUDA_ERROR_INVALID_CONTEXT);
    if (!context->active) throw CUDA_ERROR_CONTEXT_IS_DESTROYED;
    if (context->dead != CUDA_SUCCESS) throw context->dead;
  }
  if ((traits & kUnsafe) != 0 && state.forbidden(caller.thread, caller.function))
    throw CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  state.drift();
}

void Caller::refuse(ReportKind kind, const std::string& why, CUresult code) const {
  state.report(kind, std::string(function) + ": " + why);
  throw code;
}

StreamState& Caller::stream(CUstream handle) const {
  StreamState* found = state.find_stream(handle, device(), thread, function);
  if (found == nullptr) throw no_such_handle(function, state.stream_handles.contains(handle));
  if (found->lost) throw CUDA_ERROR_CONTEXT_IS_DESTROYED;
  return *found;
}

EventState& Caller::event(CUevent handle) const {
  EventState* found = state.find_event(handle);
  if (found == nullptr) throw no_such_handle(function, state.event_handles.contains(handle));
  if (found->lost) throw CUDA_ERROR_CONTEXT_IS_DESTROYED;
  return *found;
}

EventState& Caller::usable_event(CUevent handle) const {
  EventState& found = event(handle);
  if (state.dead(found.device) != CUDA_SUCCESS) throw state.dead(found.device);
  return found;
}

StreamState& Caller::usable_stream(CUstream handle) const {
  StreamState& found = stream(handle);
  state.enter_stream(found, function);
  return found;
}

}  // namespace dlbridge::cuda_sim
