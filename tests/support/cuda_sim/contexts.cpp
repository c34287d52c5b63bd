// SPDX-License-Identifier: Apache-2.0
// A context for each device, a stack of them for each thread.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "state.h"

namespace dlbridge::cuda_sim {
namespace {

uint64_t this_thread() {
  static std::atomic<uint64_t> threads{0};
  thread_local const uint64_t mine = ++threads;
  return mine;
}

}  // namespace

bool sleeps(int task) {
  std::ifstream file("/proc/self/task/" + std::to_string(task) + "/stat");
  std::string line;
  std::getline(file, line);
  const size_t name_ends = line.rfind(')');
  return name_ends != std::string::npos && line.compare(name_ends, 4, ") S ") == 0;
}

void wait_for_other_threads() {
  const auto awake = [](const std::filesystem::directory_entry& entry) {
    const int task = std::stoi(entry.path().filename());
    return task != gettid() && !sleeps(task);
  };
  const auto tasks = [] { return std::filesystem::directory_iterator("/proc/self/task"); };
  while (std::any_of(begin(tasks()), end(tasks()), awake)) std::this_thread::yield();
}

ThreadState& State::thread() {
  ThreadState& mine = threads[this_thread()];
  mine.id = this_thread();
  return mine;
}

CUcontext State::handle_of(int device) const {
  return reinterpret_cast<CUcontext>(uintptr_t{0xC0000000} + 16 * static_cast<uintptr_t>(device));
}

CUcontext State::make_user_context(int device, bool green) {
  const auto made = reinterpret_cast<CUcontext>(uintptr_t{0xD0000000} + 16 * user_contexts.size());
  user_contexts[made] = {.device = device, .green = green, .streams = {}};
  return made;
}

bool State::current_elsewhere(CUcontext context, const ThreadState& thread) const {
  return std::any_of(threads.begin(), threads.end(), [&](const auto& item) {
    const auto& [id, other] = item;
    return id != thread.id && !other.contexts.empty() && other.contexts.back() == context;
  });
}

int State::device_of(CUcontext context) const {
  for (const auto& [device, primary] : contexts) {
    if (handle_of(device) == context) return device;
  }
  const auto found = user_contexts.find(context);
  return found == user_contexts.end() ? -1 : found->second.device;
}

DefaultStreams& State::streams_of(CUcontext context) {
  const auto found = user_contexts.find(context);
  if (found != user_contexts.end()) return found->second.streams;
  return contexts.at(device_of(context)).streams;
}

ContextState* State::current(ThreadState& thread) {
  if (thread.contexts.empty() || thread.contexts.back() == nullptr) return nullptr;
  return &contexts.at(device_of(thread.contexts.back()));
}

void State::activate(int device) {
  ContextState& context = contexts.at(device);
  context.used_by_runtime = true;
  if (context.active) return;
  context.active = true;
  context.id = ++context_ids;
  context.dead = CUDA_SUCCESS;
  note("context of cuda:" + std::to_string(device) + " made");
}

void State::kill(int device, CUresult code) {
  contexts.at(device).dead = code;
  note("cuda:" + std::to_string(device) + " is dead with " + std::to_string(code));
  state_changed().notify_all();
}

void State::lose(int device) {
  ContextState& context = contexts.at(device);
  note("context of cuda:" + std::to_string(device) + " destroyed");
  std::vector<OperationPtr> stopped;
  for (const auto& [id, operation] : pending) {
    if (operation->stream->device == device) stopped.push_back(operation);
  }
  context.dead = CUDA_SUCCESS;
  for (const OperationPtr& operation : stopped) {
    operation->cancelled = true;
    complete(operation);
  }
  for (StreamState& stream : streams) {
    if (stream.device != device) continue;
    // What ran there is over for everybody.
    if (stream.tail != nullptr) host_knows(*stream.tail);
    stream.lost = true;
  }
  for (EventState& event : events) {
    if (event.device == device) event.lost = true;
  }
  for (auto& [begin, allocation] : allocations) {
    if (allocation->device == device) allocation->freed = true;
  }
  std::erase_if(registrations, [&](const auto& item) { return item.second.device == device; });
  context.streams = {};
  context.loaded.clear();
  context.async_bytes = 0;
  context.active = false;
  context.used_by_runtime = false;  // what others have retained is still theirs to release
  state_changed().notify_all();
}

}  // namespace dlbridge::cuda_sim
