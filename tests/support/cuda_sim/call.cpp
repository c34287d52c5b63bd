// SPDX-License-Identifier: Apache-2.0
// What surrounds every call of the table: counting, faults, the driver's state, the current
// context, captures that forbid the call, dead devices.
#include "call.h"

#include <atomic>

namespace dlbridge::cuda_sim {
namespace {

std::atomic<bool (*)()> g_holds_interpreter_lock{nullptr};

template <class... Names>
bool is_one_of(std::string_view function, Names... names) {
  return ((function == names) || ...);
}

// Asks about the driver, devices or contexts, whatever state these are in; pending work stays.
bool only_asks(std::string_view function) {
  return function.starts_with("ctx_") || function.starts_with("device_") ||
         is_one_of(function, "init", "driver_get_version", "get_device_count", "stream_get_ctx",
                   "mem_get_address_range");
}

bool needs_context(std::string_view function) {
  return !only_asks(function) && !is_one_of(function, "event_query", "event_synchronize");
}

// Forbidden to threads that a capture concerns.
bool is_unsafe(std::string_view function) {
  return is_one_of(function, "stream_synchronize", "stream_query", "event_query",
                   "event_synchronize", "malloc_async", "free_async", "host_register",
                   "host_unregister", "preload_kernels");
}

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
    const DeviceState* current = state.current(caller.thread);
    if (fault->sticky && current != nullptr) state.kill(current->device, code);
    state.faults.erase(fault);
    ++state.struck;
    state.note("FAULT in " + function + ": " + std::to_string(code));
    throw code;
  }
}

// Waits while a host function holds the driver's lock.
void enter_driver(Caller& caller) {
  State& state = caller.state;
  if (state.host_functions == 0) return;
  if (state.driver_thread == caller.thread.id)
    caller.refuse(ReportKind::driver_locked, "called by a host function", CUDA_ERROR_NOT_PERMITTED);
  ++state.blocked;
  blocked_changed().notify_all();
  const bool over = state_changed().wait_for(caller.lock, state.config.patience, [&] {
    return state.host_functions == 0 || state.ending;
  });
  --state.blocked;
  if (!over)
    state.report(ReportKind::driver_locked,
                 std::string(caller.function) + " waits for a host function that does not end");
}

// Everything before the function itself.
void before_call(Caller& caller) {
  State& state = caller.state;
  enter_driver(caller);
  count(caller);
  if (state.config.driver != Driver::present &&
      !is_one_of(caller.function, "init", "driver_get_version"))
    throw CUDA_ERROR_NOT_INITIALIZED;
  if (only_asks(caller.function)) return;
  if (needs_context(caller.function)) {
    const DeviceState* current = state.current(caller.thread);
    if (current == nullptr)
      caller.refuse(ReportKind::wrong_context, "none is current", CUDA_ERROR_INVALID_CONTEXT);
    if (!current->active) throw CUDA_ERROR_CONTEXT_IS_DESTROYED;
    check(current->dead);
  }
  if (is_unsafe(caller.function) && state.forbidden(caller.thread, caller.function))
    throw CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  state.drift();
}

template <class F>
CUresult call(std::string_view function, F&& body) {
  Lock lock(state_mutex());
  if (living_state() == nullptr) return CUDA_ERROR_DEINITIALIZED;
  State& state = *living_state();
  ++state.inside;
  Caller caller{state, lock, state.thread(), function};
  CUresult answer = CUDA_SUCCESS;
  try {
    before_call(caller);
    body(caller);
  } catch (CUresult refused) {
    answer = refused;
  }
  if (answer != CUDA_SUCCESS && answer != CUDA_ERROR_NOT_READY)
    state.note(std::string(function) + " answers " + std::to_string(answer));
  --state.inside;
  state_changed().notify_all();
  return answer;
}

// CUDA leaves the use of a destroyed handle undefined. Drivers were seen to answer 709 (of
// cuStreamSynchronize: GenomeWorks#393; of cuEventDestroy: cudf#16018), others 400. No source
// says which call of which driver answers what, so both occur here.
template <class Found>
Found& alive(const Caller& caller, Found* found) {
  if (found == nullptr)
    caller.refuse(ReportKind::bad_argument, "no such handle", CUDA_ERROR_INVALID_HANDLE);
  if (found->lost) throw CUDA_ERROR_CONTEXT_IS_DESTROYED;
  if (!found->destroyed) return *found;
  const auto answer = is_one_of(caller.function, "stream_synchronize", "stream_is_capturing",
                                "event_record", "event_query", "event_destroy", "free_async")
                          ? CUDA_ERROR_CONTEXT_IS_DESTROYED
                          : CUDA_ERROR_INVALID_HANDLE;
  if (is_one_of(caller.function, "stream_is_capturing", "stream_get_ctx")) throw answer;
  caller.refuse(ReportKind::use_after_destroy, hex(found->handle) + " is destroyed", answer);
}

}  // namespace

void set_interpreter_check(bool (*holds_lock)()) { g_holds_interpreter_lock = holds_lock; }

void fill_table(cuda::CudaApi& table) {
#define OWN(member, parameters)                                                         \
  table.member = [](auto... arguments) {                                                \
    return call(#member, [&](Caller& each) { functions::member(each, arguments...); }); \
  };
#define DRIVER(member, symbol, parameters) OWN(member, parameters)
#include "runtime/cuda_api.def"
#undef DRIVER
#undef OWN
}

void Caller::refuse(ReportKind kind, const std::string& why, CUresult code) const {
  state.report(kind, std::string(function) + ": " + why);
  throw code;
}

StreamState& Caller::stream(CUstream handle) const {
  return alive(*this, state.find_stream(handle, device()));
}

EventState& Caller::event(CUevent handle) const {
  EventState& found = alive(*this, state.events.find(handle));
  check(state.dead(found.device));
  return found;
}

StreamState& Caller::usable_stream(CUstream handle) const {
  StreamState& found = stream(handle);
  state.enter_stream(found, function);
  return found;
}

}  // namespace dlbridge::cuda_sim
