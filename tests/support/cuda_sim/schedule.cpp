// SPDX-License-Identifier: Apache-2.0
// Which operation runs when.
#include "state.h"

namespace dlbridge::cuda_sim {

bool State::runnable(const Operation& operation) const {
  return operation.ready && !operation.done && !held && !operation.stream->held &&
         dead(operation.stream->device) == CUDA_SUCCESS;
}

void State::become_ready(Operation& operation) {
  operation.ready = true;
  // From here on the device may have begun: what was there before cannot be counted on.
  if (!operation.cancelled) poison(operation);
}

void State::execute(const OperationPtr& operation) {
  note("run #" + std::to_string(operation->id));
  if (operation->host_function) {
    operation->ready = false;  // but once
    ++host_functions;
    driver_threads.emplace_back([this, operation] { run_host_function(operation); });
    return;
  }
  if (!operation->cancelled) {
    check_sources(*operation);
    if (operation->run) operation->run();
  }
  complete(operation);
}

void State::run_host_function(const OperationPtr& operation) {
  Lock lock(state_mutex());
  state_changed().wait(lock, [this] { return driver_thread == 0; });
  driver_thread = thread().id;
  lock.unlock();
  operation->host_function();
  lock.lock();
  driver_thread = 0;
  --host_functions;
  complete(operation);
  state_changed().notify_all();
}

void State::complete(const OperationPtr& operation) {
  // A kernel that killed its device does not end.
  if (dead(operation->stream->device) != CUDA_SUCCESS) return;
  operation->done = true;
  operation->run = nullptr;
  pending.erase(operation->id);
  for (Operation* effect : operation->effects) {
    std::erase(effect->causes, operation);
    if (effect->causes.empty()) become_ready(*effect);
  }
  operation->effects.clear();
  state_changed().notify_all();
}

std::vector<OperationPtr> State::closure(const OperationPtr& target) const {
  std::map<uint64_t, OperationPtr> found;
  std::vector<OperationPtr> open;
  if (!target->done) open.push_back(target);
  while (!open.empty()) {
    const OperationPtr next = open.back();
    open.pop_back();
    if (!found.emplace(next->id, next).second) continue;
    open.insert(open.end(), next->causes.begin(), next->causes.end());
  }
  std::vector<OperationPtr> result;
  for (const auto& [id, operation] : found) result.push_back(operation);
  return result;
}

void State::progress(const OperationPtr& target) {
  for (const OperationPtr& operation : closure(target)) {
    // Others may run in between, never instead.
    while (config.schedule == Schedule::random && draw(3) == 0 && step_one()) {
    }
    if (runnable(*operation)) execute(operation);
  }
}

bool State::step_one() {
  std::vector<OperationPtr> candidates = all_pending();
  std::erase_if(candidates, [this](const OperationPtr& each) { return !runnable(*each); });
  if (!candidates.empty()) execute(candidates[draw(candidates.size())]);
  return !candidates.empty();
}

std::vector<OperationPtr> State::all_pending() const {
  std::vector<OperationPtr> all;
  for (const auto& [id, operation] : pending) all.push_back(operation);
  return all;
}

void State::run_all() {
  for (const OperationPtr& operation : all_pending()) {
    if (runnable(*operation)) execute(operation);
  }
}

void State::drift() {
  if (config.schedule == Schedule::eager) run_all();
  if (config.schedule != Schedule::random) return;
  for (uint64_t steps = draw(4); steps > 0 && step_one(); --steps) {
  }
}

void State::go(bool& which) {
  which = false;
  drift();
  state_changed().notify_all();
}

CUresult State::fate(const OperationPtr& target) const {
  for (const OperationPtr& operation : closure(target)) {
    const CUresult answer = dead(operation->stream->device);
    if (answer != CUDA_SUCCESS) return answer;
    if (operation->stream->lost) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  }
  return CUDA_SUCCESS;
}

CUresult State::wait_for(Lock& lock, OperationPtr target) {
  while (target != nullptr && !target->done) {
    if (ending) return CUDA_ERROR_DEINITIALIZED;
    progress(target);
    if (target->done) break;
    if (const CUresult error = fate(target); error != CUDA_SUCCESS) return error;
    ++blocked;
    blocked_changed().notify_all();
    state_changed().wait(lock);
    --blocked;
  }
  if (target != nullptr) {
    if (target->stream->lost) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    host_knows(*target);
  }
  return CUDA_SUCCESS;
}

void State::wait_for_running(Lock& lock) {
  if (!config.waits_for_running) return;
  for (const OperationPtr& operation : all_pending()) wait_for(lock, operation);
}

CUresult State::query(const OperationPtr& target) {
  if (target == nullptr) return CUDA_SUCCESS;
  if (!target->done) {
    if (const CUresult error = fate(target); error != CUDA_SUCCESS) return error;
    if (held || target->stream->held) return CUDA_ERROR_NOT_READY;
    int& left = target->not_ready_left;
    if (left < 0) left = static_cast<int>(draw(static_cast<uint64_t>(config.max_not_ready) + 1));
    if (left > 0) {
      --left;
      return CUDA_ERROR_NOT_READY;
    }
    progress(target);
    if (const CUresult error = fate(target); error != CUDA_SUCCESS) return error;
    if (!target->done) return CUDA_ERROR_NOT_READY;
  }
  host_knows(*target);
  return CUDA_SUCCESS;
}

}  // namespace dlbridge::cuda_sim
