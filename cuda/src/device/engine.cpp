// SPDX-License-Identifier: Apache-2.0
#include "device/engine.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
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
// CUDA 12.0, of drivers from 525: the pack kernels are PTX of that version.
constexpr int kLeastVersion = 12000;

// A copy of getenv() with the type that default_limit() takes.
const char* variable(const char* name) { return std::getenv(name); }

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
      pool_(
          api, [this](bool urgent) { return fence(urgent); }, pinned::default_limit("/", variable),
          piece_bytes, kPoolIdleAge) {
  for (int i = 0; i < found.device_count; ++i) devices_.emplace_back(api, i, pool_);
}

void Engine::end() {
  for (DeviceContext& device : devices_) device.stop();
  pool_.end();  // first: its events are those of the devices
  devices_.clear();
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

void Engine::require_index(int index) const {
  const int count = static_cast<int>(devices_.size());
  if (index >= 0 && index < count) return;
  throw Error(ErrorCode::invalid_device, "device",
              "device is cuda:" + std::to_string(index) + ", which this machine does not have; " +
                  "its devices are cuda:0 to cuda:" + std::to_string(count - 1));
}

DeviceContext& Engine::device(int index) {
  require_index(index);
  DeviceContext& found = devices_[static_cast<size_t>(index)];
  if (!found.has_context()) {
    throw Error(ErrorCode::invalid_device, "device",
                "device is cuda:" + std::to_string(index) +
                    ", on which the CUDA runtime has allocated nothing yet: what is to be staged "
                    "has to be there first");
  }
  return started(index);
}

DeviceContext& Engine::started(int index) {
  require_index(index);
  DeviceContext& found = devices_[static_cast<size_t>(index)];
  found.start();
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

int Engine::device_with_primary(CUcontext context) {
  for (DeviceContext& device : devices_) {
    if (device.has_context() && device.context() == context) return device.index();
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
  CUdevice current = 0;
  if (api_.ctx_get_device(&current) != CUDA_SUCCESS) current = 0;  // no context is current
  DeviceContext* failed = nullptr;
  for (size_t i = 0; i < devices_.size(); ++i) {
    DeviceContext& device = devices_[(static_cast<size_t>(current) + i) % devices_.size()];
    if (!device.has_context()) continue;
    if (device.alive()) return device.context();
    failed = &device;
  }
  if (failed != nullptr) failed->require_alive();
  return nullptr;
}

CUcontext Engine::any_context() {
  const CUcontext found = context_in_use();
  return found != nullptr ? found : started(0).context();
}

bool Engine::drain(double seconds) noexcept {
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (true) {
    bool idle = true;
    for (DeviceContext& device : devices_) idle &= !device.alive() || device.idle();
    if (idle) return true;
    if (std::chrono::steady_clock::now() >= until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

bool drain(double seconds) noexcept {
  Engine* engine = Engine::existing();
  return engine == nullptr || engine->drain(seconds);
}

// Blocking streams wait for an event on the legacy stream, and it for them, so that it couples
// streams that have nothing to do with each other: if it is not urgent, it is recorded only where
// they have nothing to do.
std::optional<Fence> Engine::fence(bool urgent) {
  Fence fence;
  for (DeviceContext& device : devices_) {
    try {
      if (!device.has_context() || !device.alive()) continue;
      const CallGuard guard(api_, device.context());
      // Recording would end the capture. The legacy stream's handle stands for all blocking streams
      // (CUDA programming guide, prohibited operations of stream capture).
      if (capture_of(api_, CU_STREAM_LEGACY).active) return std::nullopt;
      if (api_.stream_query(CU_STREAM_LEGACY) != CUDA_SUCCESS && !urgent) return std::nullopt;
      PooledEvent event = device.events().take();
      check(api_.event_record(event.get(), CU_STREAM_LEGACY), "cuEventRecord");
      fence.push_back(std::move(event));
    } catch (const CudaError& error) {
      device.fails_with(error.cuda_code());  // then the next fence leaves it out
      throw;
    }
  }
  return fence;
}

}  // namespace dlbridge::cuda
