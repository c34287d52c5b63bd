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

bool fault_strikes(State& state, ThreadState& thread, const char* function, cudaError_t& code) {
  ++state.counts[function];
  ++state.total;
  const auto holds_lock = g_holds_interpreter_lock.load();
  if (holds_lock != nullptr && state.config.driver == Driver::present && holds_lock())
    state.report(ReportKind::interpreter_locked, std::string(function) + " with the GIL held");
  for (auto fault = state.faults.begin(); fault != state.faults.end(); ++fault) {
    if (!fault->function.empty() && fault->function != function) continue;
    if (--fault->nth > 0) continue;
    code = fault->code;
    const ContextState* context = state.current(thread);
    if (fault->sticky && context != nullptr) state.kill(context->device, code);
    state.faults.erase(fault);
    ++state.struck;
    state.note(std::string("FAULT in ") + function + ": " + std::to_string(code));
    return true;
  }
  return false;
}

bool enter_driver(Caller& caller) {
  constexpr int kSleepsForGood = 100;  // looks, a millisecond apart
  State& state = caller.state;
  if (state.host_functions == 0) return true;
  const std::string call(caller.function);
  if (state.driver_thread == caller.thread.id) {
    state.report(ReportKind::driver_locked, "a host function calls " + call);
    return false;
  }
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
  return true;
}

cudaError_t before_call(Caller& caller, unsigned traits) {
  State& state = caller.state;
  cudaError_t code = cudaSuccess;
  if (fault_strikes(state, caller.thread, caller.function, code)) return code;
  if ((traits & kDriver) != 0) return cudaSuccess;
  if ((traits & kNoDriver) == 0) {
    if (state.config.driver == Driver::no_device) return cudaErrorNoDevice;
    if (state.config.driver != Driver::present) return cudaErrorInsufficientDriver;
  }
  if ((traits & kContext) != 0) {
    const ContextState& context = state.ensure_current(caller.thread);
    if (context.dead != cudaSuccess) return context.dead;
  }
  if ((traits & kUnsafe) != 0 && state.forbidden(caller.thread, caller.function)) {
    return cudaErrorStreamCaptureUnsupported;
  }
  state.drift();
  return cudaSuccess;
}

namespace {

// CUDA leaves the use of a destroyed handle undefined. Drivers were seen to answer 709 (of
// cudaStreamSynchronize: GenomeWorks#393; of cudaEventDestroy: cudf#16018), others 400. No source
// says which call of which driver answers what, so both occur here.
cudaError_t answer_about_destroyed(std::string_view function) {
  for (const std::string_view each : {"stream_synchronize", "stream_is_capturing", "event_record",
                                      "event_query", "event_destroy", "free_async"}) {
    if (function == each) return cudaErrorContextIsDestroyed;
  }
  return cudaErrorInvalidResourceHandle;
}

}  // namespace

cudaError_t no_such_stream(const State& state, const char* function, cudaStream_t handle) {
  return state.stream_handles.contains(handle) ? answer_about_destroyed(function)
                                               : cudaErrorInvalidResourceHandle;
}

cudaError_t no_such_event(const State& state, const char* function, cudaEvent_t handle) {
  return state.event_handles.contains(handle) ? answer_about_destroyed(function)
                                              : cudaErrorInvalidResourceHandle;
}

StreamState* usable_stream(Caller& caller, cudaStream_t handle, cudaError_t& error) {
  StreamState* stream = caller.stream(handle);
  error = stream == nullptr ? no_such_stream(caller.state, caller.function, handle)
                            : caller.state.enter_stream(*stream, caller.function);
  return error == cudaSuccess ? stream : nullptr;
}

void submit(Caller& caller, StreamState& stream, Draft draft) {
  stream.used_through_table = true;
  if (stream.capture != nullptr) {
    caller.state.capture_node(stream);
    return;
  }
  caller.state.enqueue(stream, std::move(draft));
  caller.state.drift();
}

}  // namespace dlbridge::cuda_sim
