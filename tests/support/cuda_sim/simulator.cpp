// SPDX-License-Identifier: Apache-2.0
#include "simulator.h"

#include <pthread.h>

#include <chrono>
#include <cstring>
#include <stdexcept>

#include "call.h"

namespace dlbridge::cuda_sim {
namespace {

uintptr_t address(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

// Memory that a test names; a mistake of the test itself otherwise.
Allocation& allocation_at(State& state, const void* memory, size_t count) {
  const Place place = state.place_of(address(memory), address(memory) + count, 0);
  if (place.allocation == nullptr || !place.trouble.empty()) {
    throw std::invalid_argument(hex(address(memory)) + " + " + std::to_string(count) +
                                " is no device memory. " + place.trouble);
  }
  return *place.allocation;
}

unsigned char* bytes_at(State& state, const void* memory, size_t count) {
  const Allocation& allocation = allocation_at(state, memory, count);
  return reinterpret_cast<unsigned char*>(address(memory) + allocation.mapping->alias());
}

}  // namespace

// Threads may wait on these for as long as the process lives. A fork waits for the mutex, and the
// child gets conditions for which no thread waits: it has none of the parent's threads.
std::mutex& state_mutex() {
  static auto* mutex = [] {
    pthread_atfork([] { state_mutex().lock(); }, [] { state_mutex().unlock(); },
                   [] {
                     new (&state_changed()) std::condition_variable;
                     new (&blocked_changed()) std::condition_variable;
                     state_mutex().unlock();
                   });
    return new std::mutex;
  }();
  return *mutex;
}

std::condition_variable& state_changed() {
  static auto* changed = new std::condition_variable;
  return *changed;
}

std::condition_variable& blocked_changed() {
  static auto* changed = new std::condition_variable;
  return *changed;
}

State*& living_state() {
  static State* state = nullptr;
  return state;
}

State::State(Config wanted) : config(std::move(wanted)), random(config.seed) {
  for (int device = 0; device < config.devices; ++device) {
    contexts[device].device = device;
    attributes[{device, CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS}] = 1;
    attributes[{device, CU_DEVICE_ATTRIBUTE_WARP_SIZE}] = 32;
  }
  for (const int device : config.active) {
    if (device < config.devices) activate(device);
  }
  fill_table(table);
}

StreamState& State::named_stream(CUstream handle, const void* memory) {
  const ContextState* context = current(thread());
  int device = context != nullptr      ? context->device
               : config.active.empty() ? 0
                                       : config.active.front();
  if (memory != nullptr) {
    const Place place = place_of(address(memory), address(memory) + 1, 0);
    if (place.allocation != nullptr) device = place.allocation->device;
  }
  StreamState* stream = find_stream(handle, device, thread());
  if (stream == nullptr) throw std::invalid_argument("no such stream");
  return *stream;
}

State::~State() {
  // A long chain of causes must not be destroyed by recursion.
  for (const auto& [id, operation] : pending) operation->causes.clear();
}

Simulator::Simulator(Config config) : state_(std::make_unique<State>(std::move(config))) {
  const Lock lock(state_mutex());
  if (living_state() != nullptr) throw std::logic_error("another simulator lives");
  living_state() = state_.get();
}

Simulator::~Simulator() {
  Lock lock(state_mutex());
  living_state() = nullptr;
  state_->ending = true;
  state_changed().notify_all();
  state_changed().wait(lock, [&] { return state_->inside == 0; });
  lock.unlock();
  for (std::thread& each : state_->driver_threads) each.join();
}

void* Simulator::device_alloc(size_t bytes, int device) {
  const Locked state = locked();
  state->activate(device);
  const auto allocation = state->allocate(bytes, device, false);
  std::memset(reinterpret_cast<void*>(allocation->begin() + allocation->mapping->alias()),
              state->config.poison, std::min(bytes, size_t{64} << 20));
  return reinterpret_cast<void*>(allocation->begin());
}

void Simulator::device_free(void* memory) {
  const Locked state = locked();
  const auto found = state->allocations.find(address(memory));
  if (found == state->allocations.end()) throw std::invalid_argument("no such allocation");
  Allocation& allocation = *found->second;
  if (allocation.freed) {
    state->report(ReportKind::use_after_destroy, hex(allocation.begin()) + " is freed already");
    return;
  }
  state->release(allocation.begin(), allocation.end(), "device_free");
  state->bury(allocation);
}

void* Simulator::managed_alloc(size_t bytes, int device) {
  const Lock lock(state_mutex());
  state_->activate(device);
  return reinterpret_cast<void*>(state_->allocate(bytes, device, true)->begin());
}

void Simulator::write(void* device_memory, const void* bytes, size_t count) {
  const Lock lock(state_mutex());
  if (count != 0) std::memcpy(bytes_at(*state_, device_memory, count), bytes, count);
}

void Simulator::write(void* device_memory, const std::vector<uint8_t>& bytes) {
  write(device_memory, bytes.data(), bytes.size());
}

std::vector<uint8_t> Simulator::read(const void* device_memory, size_t count) const {
  const Lock lock(state_mutex());
  if (count == 0) return {};
  const unsigned char* bytes = bytes_at(*state_, device_memory, count);
  return std::vector<uint8_t>(bytes, bytes + count);
}

// ---- kernels of the tests

void Simulator::enqueue_write(CUstream stream, void* memory, std::vector<uint8_t> bytes) {
  const size_t count = bytes.size();
  enqueue_kernel(stream, {}, {{memory, count}},
                 [bytes = std::move(bytes)](const std::vector<void*>& at) {
                   if (!bytes.empty()) std::memcpy(at[0], bytes.data(), bytes.size());
                 });
}

std::shared_ptr<std::vector<uint8_t>> Simulator::enqueue_read(CUstream stream, const void* memory,
                                                              size_t count) {
  auto result = std::make_shared<std::vector<uint8_t>>();
  enqueue_kernel(stream, {{memory, count}}, {}, [result, count](const std::vector<void*>& at) {
    const auto* bytes = static_cast<const uint8_t*>(at[0]);
    result->assign(bytes, bytes + count);
  });
  return result;
}

void Simulator::enqueue_kernel(CUstream stream, std::vector<Range> reads, std::vector<Range> writes,
                               std::function<void(const std::vector<void*>&)> body) {
  const Lock lock(state_mutex());
  const void* some = !reads.empty() ? reads[0].data : !writes.empty() ? writes[0].data : nullptr;
  StreamState& on = state_->named_stream(stream, some);
  const OperationPtr kernel = operation("test kernel");
  std::vector<void*> pointers;
  for (const auto* list : {&reads, &writes}) {
    for (const Range& range : *list) {
      kernel->accesses.push_back(
          state_->access(ByteSet(range.data, range.bytes), list == &writes, on.device));
      const Access& access = kernel->accesses.back();
      if (!access.place.trouble.empty()) {
        state_->report(access.place.report, "test kernel: " + access.place.trouble);
        return;
      }
      kernel->text += std::string(access.write ? " writing " : " reading ") +
                      hex(address(range.data)) + "+" + std::to_string(range.bytes);
      pointers.push_back(reinterpret_cast<void*>(address(range.data) + access.alias()));
    }
  }
  if (body) kernel->run = [body = std::move(body), pointers] { body(pointers); };
  state_->submit(on, kernel);
}

void Simulator::enqueue_host_function(CUstream stream, std::function<void()> body) {
  const Lock lock(state_mutex());
  const OperationPtr function = operation("host function");
  function->host_function = std::move(body);
  state_->submit(state_->named_stream(stream), function);
}

void Simulator::enqueue_fault(CUstream stream, CUresult code) {
  const Lock lock(state_mutex());
  StreamState& on = state_->named_stream(stream);
  const OperationPtr fault = operation("fault " + std::to_string(code));
  fault->run = [state = state_.get(), device = on.device, code] { state->kill(device, code); };
  state_->submit(on, fault);
}

// ---- time

bool Simulator::wait_until_blocked(int count) const {
  Lock lock(state_mutex());
  const bool in_host_function = state_->driver_thread == state_->thread().id;
  if (in_host_function) state_->driver_watches = true;
  const bool blocked = blocked_changed().wait_for(lock, std::chrono::seconds(10),
                                                  [&] { return state_->blocked >= count; });
  if (in_host_function) state_->driver_watches = false;
  return blocked;
}

void Simulator::finish() {
  const Lock lock(state_mutex());
  state_->run_all();
  for (const StreamState& stream : state_->streams) {
    if (stream.tail != nullptr && stream.tail->done) state_->host_knows(*stream.tail);
  }
}

void Simulator::synchronize(CUstream stream) {
  Lock lock(state_mutex());
  const OperationPtr target = state_->named_stream(stream).tail;
  ++state_->inside;
  state_->wait_for(lock, target);
  --state_->inside;
  state_changed().notify_all();
}

// ---- contexts

void Simulator::use_device(int device) {
  const Lock lock(state_mutex());
  state_->activate(device);
  auto& stack = state_->thread().contexts;
  if (stack.empty()) stack.push_back(nullptr);
  stack.back() = state_->handle_of(device);
}

std::vector<int> Simulator::context_stack() const {
  const Lock lock(state_mutex());
  std::vector<int> devices;
  for (const CUcontext context : state_->thread().contexts) {
    devices.push_back(state_->device_of(context));
  }
  return devices;
}

CUstream Simulator::make_stream_in(CUcontext context, unsigned flags) {
  const Lock lock(state_mutex());
  const auto user = state_->user_contexts.find(context);
  if (user != state_->user_contexts.end() && user->second.green && flags != CU_STREAM_NON_BLOCKING)
    throw std::invalid_argument("streams of green contexts are non-blocking");
  return state_->new_stream(StreamState::created, context, flags, false).handle;
}

CUresult Simulator::order(CUstream earlier, CUstream later, int device) {
  const Lock lock(state_mutex());
  StreamState* from = state_->find_stream(earlier, device, state_->thread());
  StreamState* to = state_->find_stream(later, device, state_->thread());
  if (from == nullptr || to == nullptr) throw std::invalid_argument("no such stream");
  EventState event{.device = from->device, .context = from->context};
  try {
    state_->record(event, *from, "a test's record");
    if (from != to) state_->wait(*to, event, "a test's wait");
  } catch (CUresult error) {
    return error;
  }
  return CUDA_SUCCESS;
}

void Simulator::set_attribute(CUdevice_attribute attribute, int value, int device) {
  const Lock lock(state_mutex());
  for (int each = 0; each < state_->config.devices; ++each) {
    if (device < 0 || device == each) state_->attributes[{each, attribute}] = value;
  }
}

}  // namespace dlbridge::cuda_sim
