// SPDX-License-Identifier: Apache-2.0
#include "device/engine.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "pinned/limit.h"
#include "runtime/cuda_error.h"

namespace dlbridge::cuda {
namespace {

std::mutex g_mutex;
std::atomic<const CudaApi*> g_injected{nullptr};
std::atomic<Engine*> g_engine{nullptr};  // never destroyed at exit: results may live longer
size_t g_piece_bytes = PinnedSegment::kPieceBytes;  // guarded by g_mutex

constexpr int kSecondsAtExit = 2;

constexpr auto kPoolIdleAge = std::chrono::seconds(30);

// A copy of getenv() with the type that default_limit() takes.
const char* variable(const char* name) { return std::getenv(name); }

}  // namespace

const CudaApi& cuda_api() noexcept {
  const CudaApi* injected = g_injected.load();
  return injected != nullptr ? *injected : driver_table();
}

void inject_cuda_api(const CudaApi* api, size_t piece_bytes) {
  const std::lock_guard lock(g_mutex);
  static auto& former = *new std::vector<Engine*>;  // their pools own memory of held results
  if (Engine* engine = g_engine.exchange(nullptr)) {
    engine->end();
    former.push_back(engine);
  }
  g_injected.store(api);
  g_piece_bytes = piece_bytes != 0 ? piece_bytes : PinnedSegment::kPieceBytes;
}

namespace {

// CUDA 12.0, of drivers from 525: the pack kernels are PTX of that version.
constexpr int kLeastVersion = 12000;

// Says why `found` is not usable.
void add_reason(Availability& found, CUresult error) {
  found.device_count = 0;
  if (found.driver_version == 0) {
    found.reason = ErrorCode::no_driver;
    found.message = "no CUDA driver: nothing can be staged to or from a GPU on this machine";
  } else if (found.driver_version < kLeastVersion) {
    found.reason = ErrorCode::driver_too_old;
    found.message = "the CUDA driver is too old: it knows CUDA " +
                    version_text(found.driver_version) + ", this library needs " +
                    version_text(found.runtime_version) + ": install a newer driver";
  } else {
    found.reason = ErrorCode::no_device;
    found.message = "there is a CUDA driver, but no device that it lets this process use (" +
                    error_name(error == CUDA_SUCCESS ? CUDA_ERROR_NO_DEVICE : error) + ")";
  }
}

}  // namespace

void start() { Engine::get(); }

bool in_use() noexcept { return Engine::existing() != nullptr; }

Availability driver_presence() {
  Engine::require_no_parent();
  if (const Engine* engine = Engine::existing()) return engine->found();
  Availability found;
  found.runtime_version = kLeastVersion;
  cuda_api().driver_get_version(&found.driver_version);  // starts nothing
  found.usable = found.driver_version >= kLeastVersion;
  if (!found.usable) add_reason(found, CUDA_ERROR_NOT_INITIALIZED);
  return found;
}

Availability availability() {
  Availability found = driver_presence();
  if (!found.usable || Engine::existing() != nullptr) return found;
  const CudaApi& api = cuda_api();
  CUresult error = api.init(0);
  if (error == CUDA_SUCCESS) error = api.get_device_count(&found.device_count);
  found.usable = error == CUDA_SUCCESS && found.device_count > 0;
  if (!found.usable) add_reason(found, error);
  return found;
}

Engine::Engine(const CudaApi& api, size_t piece_bytes, const Availability& found)
    : api_(api),
      found_(found),
      devices_(static_cast<size_t>(found.device_count)),
      pool_(api, *this, pinned::default_limit("/", variable), piece_bytes, kPoolIdleAge) {}

void Engine::end() {
  for_each_device([](DeviceContext& device) { device.stop(); });
  pool_.end();  // first: its events are those of the devices
  for (auto& slot : devices_) delete slot.exchange(nullptr);
}

Engine* Engine::existing() noexcept {
  Engine* engine = g_engine.load(std::memory_order_acquire);
  return engine != nullptr && engine->forks_ == forks() ? engine : nullptr;
}

void Engine::require_no_parent() {
  const Engine* engine = g_engine.load(std::memory_order_acquire);
  if (engine == nullptr || engine->forks_ == forks()) return;
  throw Error(ErrorCode::after_fork, "process",
              "this process is the child of one that uses CUDA, which does not survive a fork: "
              "start workers with spawn or forkserver");
}

Engine& Engine::get() {
  require_no_parent();
  if (Engine* engine = g_engine.load(std::memory_order_acquire)) [[likely]]
    return *engine;
  const Availability found = availability();
  if (!found.usable) throw Error(found.reason, "device", found.message);
  const std::lock_guard lock(g_mutex);
  if (g_engine.load() == nullptr) {
    g_engine.store(new Engine(cuda_api(), g_piece_bytes, found), std::memory_order_release);
    static const int registered = std::atexit([] {
      dlbridge::cuda::drain(kSecondsAtExit);
      if (Engine* engine = existing()) engine->pool().stop(std::chrono::seconds(kSecondsAtExit));
    });
    static_cast<void>(registered);
  }
  return *g_engine.load();
}

DeviceContext& Engine::meet(int index) {
  const std::lock_guard lock(mutex_);
  auto& slot = devices_[static_cast<size_t>(index)];
  if (slot.load() == nullptr)
    slot.store(new DeviceContext(api_, index, pool_), std::memory_order_release);
  return *slot.load();
}

DeviceContext& Engine::open(int index) {
  DeviceContext& device = meet(index);
  device.start();
  return device;
}

CUresult Engine::primary_context(int index) const noexcept {
  unsigned flags = 0;
  int active = 0;
  const CUresult answer = api_.device_primary_ctx_get_state(index, &flags, &active);
  return answer == CUDA_SUCCESS && active == 0 ? CUDA_ERROR_INVALID_CONTEXT : answer;
}

// Returns a device whose primary context is active, made by this module or another library, else
// null. Makes no streams.
DeviceContext* Engine::met(int index) {
  const auto& slot = devices_[static_cast<size_t>(index)];
  if (DeviceContext* device = slot.load(std::memory_order_acquire)) return device;
  return primary_context(index) == CUDA_SUCCESS ? &meet(index) : nullptr;
}

DeviceContext& Engine::device(int index) {
  DeviceContext* found = nullptr;
  if (index >= 0 && index < device_count())
    found = devices_[static_cast<size_t>(index)].load(std::memory_order_acquire);
  if (found != nullptr && found->started()) [[likely]] {
    if (!found->context_lives()) found->mark_dead(CUDA_ERROR_CONTEXT_IS_DESTROYED);
    found->require_alive();
    return *found;
  }
  const CUresult answer =
      index < device_count() ? primary_context(index) : CUDA_ERROR_INVALID_DEVICE;
  if (answer != CUDA_SUCCESS) {
    throw Error(ErrorCode::invalid_device, "device",
                "device is cuda:" + std::to_string(index) +
                    (answer != CUDA_ERROR_INVALID_CONTEXT
                         ? ", which this machine does not have"
                         : ", on which the CUDA runtime has allocated nothing yet: what is to be "
                           "staged has to be there first"));
  }
  return open(index);
}

DeviceContext& Engine::started(int index) {
  if (index < 0 || index >= device_count()) {
    throw Error(ErrorCode::invalid_device, "device",
                "device is cuda:" + std::to_string(index) + ", which this machine does not have; " +
                    "its devices are cuda:0 to cuda:" + std::to_string(device_count() - 1));
  }
  DeviceContext& found = open(index);
  found.require_alive();
  return found;
}

int Engine::device_of_context(CUcontext context) const noexcept {
  CUdevice device = -1;
  if (api_.ctx_push_current(context) != CUDA_SUCCESS) return -1;
  if (api_.ctx_get_device(&device) != CUDA_SUCCESS) device = -1;
  CUcontext popped = nullptr;
  api_.ctx_pop_current(&popped);
  return device;
}

int Engine::device_with_primary(CUcontext context) noexcept {
  for (int i = 0; i < device_count(); ++i) {
    const DeviceContext* device = met(i);
    if (device != nullptr && device->context() == context) return i;
  }
  return -1;
}

PointerAttributes Engine::find(const void* address) {
  const CUcontext context = context_in_use();
  if (context == nullptr) return {};  // then CUDA knows no memory
  const CallGuard guard(api_, context);
  return attributes_of(api_, address);
}

CUcontext Engine::context_in_use() {
  CUdevice current = -1;
  api_.ctx_get_device(&current);  // fails where none is current
  CUcontext found = nullptr;
  for_each_device([&](const DeviceContext& device) {
    if (device.alive() && (found == nullptr || device.index() == current)) found = device.context();
  });
  if (found != nullptr) return found;
  int chosen = -1;
  for (int i = 0; i < device_count(); ++i) {
    if (primary_context(i) == CUDA_SUCCESS && (chosen < 0 || i == current)) chosen = i;
  }
  return chosen < 0 ? nullptr : device(chosen).context();
}

CUcontext Engine::any_context() {
  if (const CUcontext found = context_in_use()) return found;
  // No device has a context yet: memory is registered with the first one.
  DeviceContext& first = open(0);
  first.require_alive();
  return first.context();
}

bool Engine::drain(double seconds) noexcept {
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (true) {
    bool idle = true;
    for_each_device([&](DeviceContext& device) { idle &= !device.alive() || device.idle(); });
    if (idle) return true;
    if (std::chrono::steady_clock::now() >= until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

bool drain(double seconds) noexcept {
  Engine* engine = Engine::existing();
  return engine == nullptr || engine->drain(seconds);
}

// Returns false if the blocks have to go on waiting. Blocking streams wait for an event on the
// legacy stream, and it for them, so that it couples streams that have nothing to do with each
// other: if it is not urgent, it is recorded only where they have nothing to do.
bool Engine::fence(DeviceContext& device, bool urgent, Fence& fence) {
  const CallGuard guard(api_, device.context());
  if (capture_of(api_, CU_STREAM_LEGACY).active) return false;  // recording would end the capture
  // The legacy stream's handle stands for all blocking streams (CUDA programming guide, prohibited
  // operations of stream capture).
  if (api_.stream_query(CU_STREAM_LEGACY) != CUDA_SUCCESS && !urgent) return false;
  PooledEvent event = device.events().take();
  const CUresult recorded = api_.event_record(event.get(), CU_STREAM_LEGACY);
  device.fails_with(recorded);
  check(recorded, "cuEventRecord");
  fence.events.push_back(std::move(event));
  return true;
}

Fence Engine::fence(bool urgent) noexcept {
  Fence all;
  for (int i = 0; i < device_count(); ++i) {
    try {
      DeviceContext* device = met(i);
      if (device != nullptr && device->alive() && !fence(*device, urgent, all)) all.later = true;
    } catch (const std::exception&) {
      all.failed = true;
    }
  }
  return all;
}

int Engine::passed(const PooledEvent& event) noexcept {
  const CUresult answer = api_.event_query(event.get());
  if (answer == CUDA_ERROR_NOT_READY) return 0;
  return answer == CUDA_SUCCESS ? 1 : -1;
}

int Engine::numa_node() noexcept {
  CUdevice device = -1;
  int node = -1;
  if (api_.ctx_get_device(&device) != CUDA_SUCCESS) return -1;
  // Fails before CUDA 12.2.
  const CUresult answer =
      api_.device_get_attribute(&node, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, device);
  return answer == CUDA_SUCCESS ? node : -1;
}

}  // namespace dlbridge::cuda
