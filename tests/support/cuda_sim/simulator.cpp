// SPDX-License-Identifier: Apache-2.0
#include "simulator.h"

#include <pthread.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <ranges>
#include <stdexcept>

#include "call.h"

namespace dlbridge::cuda_sim {

using std::views::filter, std::views::transform;

namespace {

uintptr_t address(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

// Device memory that a test names, where the host may touch it.
unsigned char* bytes_at(State& state, const void* memory, size_t count) {
  const Access access = state.access(ByteSet(memory, count), false, 0);
  if (!access.place.on_device())
    throw std::invalid_argument(hex(memory) + " is no device memory. " + access.place.trouble);
  return reinterpret_cast<unsigned char*>(address(memory) + access.alias());
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

void wait_for_other_threads() {
  const auto awake = [](const std::filesystem::directory_entry& task) {
    std::ifstream file(task.path() / "stat");
    std::string line;
    std::getline(file, line);
    return task.path().filename() != std::to_string(gettid()) &&
           line.find(") S ") == std::string::npos;
  };
  const auto tasks = [] { return std::filesystem::directory_iterator("/proc/self/task"); };
  while (std::any_of(begin(tasks()), end(tasks()), awake)) std::this_thread::yield();
}

State::State(Config wanted) : config(std::move(wanted)), random(config.seed) {
  for (int device = 0; device < config.devices; ++device) {
    devices[device].device = device;
    contexts[primary_context(device)] = {.device = device};
    attributes[{device, CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS}] = 1;
  }
  for (const int device : config.active) {
    if (device < config.devices) activate(device);
  }
  fill_table(table);
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
  std::memset(reinterpret_cast<void*>(allocation->begin() + allocation->mapping->alias()), kPoison,
              std::min(bytes, size_t{64} << 20));
  return reinterpret_cast<void*>(allocation->begin());
}

void Simulator::device_free(void* memory) {
  const Locked state = locked();
  const auto found = state->allocations.find(address(memory));
  if (found == state->allocations.end()) throw std::invalid_argument("no such allocation");
  const std::shared_ptr<Allocation> allocation = found->second;
  if (allocation->freed)
    return state->report(ReportKind::use_after_destroy, hex(memory) + " is freed already");
  state->release(allocation->begin(), allocation->end(), "device_free");
  allocation->mapping->discard();
  state->retire(*allocation);
}

void* Simulator::managed_alloc(size_t bytes, int device) {
  const Locked state = locked();
  state->activate(device);
  return reinterpret_cast<void*>(state->allocate(bytes, device, true)->begin());
}

void Simulator::write(void* device_memory, const std::vector<uint8_t>& bytes) {
  const Locked state = locked();
  if (!bytes.empty())
    std::memcpy(bytes_at(*state.state, device_memory, bytes.size()), bytes.data(), bytes.size());
}

std::vector<uint8_t> Simulator::read(const void* device_memory, size_t count) const {
  const Locked state = locked();
  if (count == 0) return {};
  const unsigned char* bytes = bytes_at(*state.state, device_memory, count);
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
  const Locked state = locked();
  const OperationPtr kernel = operation("test kernel");
  int device = -1;
  std::vector<void*> pointers;
  for (const auto* list : {&reads, &writes}) {
    for (const Range& range : *list) {
      const Access& access = kernel->accesses.emplace_back(
          state->access(ByteSet(range.data, range.bytes), list == &writes, 0));
      if (!access.place.trouble.empty())
        return state->report(access.place.report, "test kernel: " + access.place.trouble);
      if (device < 0 && access.place.allocation != nullptr)
        device = access.place.allocation->device;
      kernel->text += (access.write ? " writing " : " reading ") + hex(range.data) + "+" +
                      std::to_string(range.bytes);
      pointers.push_back(reinterpret_cast<void*>(address(range.data) + access.alias()));
    }
  }
  if (body) kernel->run = [body = std::move(body), pointers] { body(pointers); };
  state->submit(state->named_stream(stream, device), kernel);
}

void Simulator::enqueue_host_function(CUstream stream, std::function<void()> body) {
  const Locked state = locked();
  const OperationPtr function = operation("host function");
  function->host_function = std::move(body);
  state->submit(state->named_stream(stream), function);
}

void Simulator::enqueue_fault(CUstream stream, CUresult code) {
  const Locked state = locked();
  StreamState& on = state->named_stream(stream);
  const OperationPtr fault = operation("fault " + std::to_string(code));
  fault->run = [state = state_.get(), device = on.device, code] { state->kill(device, code); };
  state->submit(on, fault);
}

// ---- time

bool Simulator::wait_until_blocked(int count) const {
  Lock lock(state_mutex());
  return blocked_changed().wait_for(lock, std::chrono::seconds(10),
                                    [&] { return state_->blocked >= count; });
}

void Simulator::finish() {
  const Locked state = locked();
  state->run_all();
  for (const StreamState& stream : state->streams.all) {
    if (stream.tail != nullptr && stream.tail->done) state->host_knows(*stream.tail);
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
  const CUcontext context = make_context(device);
  const Locked state = locked();
  auto& stack = state->thread().contexts;
  if (stack.empty()) stack.push_back(nullptr);
  stack.back() = context;
}

std::vector<int> Simulator::context_stack() const {
  const Locked state = locked();
  std::vector<int> devices;
  for (const CUcontext context : state->thread().contexts) {
    const auto found = state->contexts.find(context);
    devices.push_back(found == state->contexts.end() ? -1 : found->second.device);
  }
  return devices;
}

CUstream Simulator::make_stream_in(CUcontext context, unsigned flags) {
  const Locked state = locked();
  if (state->contexts.at(context).green && flags != CU_STREAM_NON_BLOCKING)
    throw std::invalid_argument("streams of green contexts are non-blocking");
  return state->new_stream(StreamState::created, context, flags, false).handle;
}

CUresult Simulator::order(CUstream earlier, CUstream later, int device) {
  const Locked state = locked();
  StreamState& from = state->named_stream(earlier, device);
  StreamState& to = state->named_stream(later, device);
  EventState event{.device = from.device, .context = from.context};
  try {
    state->record(event, from, "a test's record");
    if (&from != &to) state->wait(to, event, "a test's wait");
  } catch (CUresult error) {
    return error;
  }
  return CUDA_SUCCESS;
}

void Simulator::set_attribute(CUdevice_attribute attribute, int value, int device) {
  locked()->attributes[{device, attribute}] = value;
}

// ---- what was seen

const char* name(ReportKind kind) {
#define DLBRIDGE_SIM_REPORT(kind) #kind,
  constexpr const char* kNames[] = {DLBRIDGE_SIM_REPORTS(DLBRIDGE_SIM_REPORT)};
#undef DLBRIDGE_SIM_REPORT
  return kNames[static_cast<size_t>(kind)];
}

std::string hex(uintptr_t address) {
  char text[20];
  std::snprintf(text, sizeof text, "0x%zx", static_cast<size_t>(address));
  return text;
}

void State::report(ReportKind kind, std::string text) {
  constexpr size_t kEnough = 1000;
  note(std::string("REPORT ") + name(kind) + ": " + text);
  if (reports.size() < kEnough) reports.push_back({kind, std::move(text)});
}

void State::note(std::string line) {
  constexpr size_t kEnough = 4000;
  lines.push_back(std::move(line));
  if (lines.size() > kEnough) lines.pop_front();
}

std::map<std::string, size_t> Leaks::named() const {
  std::map<std::string, size_t> all = {{"async_allocations", async_allocations},
                                       {"streams", streams},
                                       {"events", events},
                                       {"registrations", registrations},
                                       {"retained_contexts", retained_contexts}};
  std::erase_if(all, [](const auto& item) { return item.second == 0; });
  return all;
}

std::string Leaks::text() const {
  std::string text;
  for (const auto& [name, count] : named()) text += std::to_string(count) + " " + name + " ";
  return text;
}

size_t Simulator::reports_of(ReportKind kind) const {
  return static_cast<size_t>(std::ranges::count(reports(), kind, &Report::kind));
}

std::string Simulator::complaint() const {
  const std::vector<Report> all = reports();
  if (all.empty()) return "";
  std::string text;
  for (const Report& each : all) text += std::string(name(each.kind)) + ": " + each.text + "\n";
  return text + "Trace:\n" + trace();
}

uint64_t Simulator::calls(const std::string& function) const { return locked()->counts[function]; }

std::string Simulator::trace() const {
  const Locked state = locked();
  std::string text;
  for (const std::string& line : state->lines) text += line + "\n";
  return text;
}

std::vector<unsigned> Simulator::created_stream_flags() const {
  const Locked state = locked();
  auto flags = state->streams.all | filter(&StreamState::counted) | transform(&StreamState::flags);
  return {flags.begin(), flags.end()};
}

std::vector<unsigned> Simulator::created_event_flags() const {
  const Locked state = locked();
  auto flags = state->events.all | transform(&EventState::flags);
  return {flags.begin(), flags.end()};
}

std::vector<CUstream> Simulator::used_streams() const {
  const Locked state = locked();
  auto used = state->streams.all | filter(&StreamState::used_through_table) |
              transform(&StreamState::handle);
  return {used.begin(), used.end()};
}

Leaks Simulator::leaks() const {
  const Locked state = locked();
  Leaks left;
  for (const auto& [begin, allocation] : state->allocations)
    left.async_allocations += allocation->stream_ordered && !allocation->freed;
  state->streams.each_alive([&](const StreamState& each) { left.streams += each.counted; });
  state->events.each_alive([&](const EventState&) { ++left.events; });
  left.registrations = state->registrations.size();
  for (const auto& [index, device] : state->devices)
    left.retained_contexts += static_cast<size_t>(device.retained);
  return left;
}

void Simulator::reset_peaks() {
  const Locked state = locked();
  state->peak_async = state->async_bytes;
  state->peak_registered = state->registered_bytes();
}

}  // namespace dlbridge::cuda_sim
