// SPDX-License-Identifier: Apache-2.0
// Asks a machine's CUDA what the CUDA module relies on, and times single calls. Needs neither
// dlbridge nor its build:
//
//   nvcc -std=c++20 -O2 benchmarks/cuda/probe.cpp -o probe
//   probe --list        names of the cases          probe [CASE...]        these cases
//
// Prints a line of JSON for each answer and one at the end of each case, flushed, so that a hang
// loses nothing: scripts/gpu ends a case that hangs and calls the program again for the others.
// Ends with 0, or 2 for an unknown case, 3 without a GPU.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace {

constexpr size_t kKiB = 1024, kMiB = 1024 * kKiB, kGiB = 1024 * kMiB;
using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}
void nap(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

// ---- Answers

std::string running;  // the case

void say(const std::string& fact, const std::string& value) {
  std::printf(R"({"case": "%s", "fact": "%s", "value": "%s"})"
              "\n",
              running.c_str(), fact.c_str(), value.c_str());
  std::fflush(stdout);
}
void say(const std::string& fact, double value, const char* unit) {
  char text[64];
  std::snprintf(text, sizeof text, "%.4g %s", value, unit);
  say(fact, text);
}
/// Of times in seconds: the median and the 90 % quantile, in `unit`s of `scale` seconds.
void say_times(const std::string& fact, std::vector<double> seconds, double scale,
               const char* unit) {
  std::sort(seconds.begin(), seconds.end());
  char text[96];
  std::snprintf(text, sizeof text, "%.4g %s (90 %%: %.4g)", seconds[seconds.size() / 2] / scale,
                unit, seconds[seconds.size() * 9 / 10] / scale);
  say(fact, text);
}
std::string name_of(cudaError_t error) {
  return std::to_string(error) + " " + cudaGetErrorName(error);
}
void must(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(call) + ": " + name_of(error));
}
#define MUST(call) must(call, #call)

template <typename Function>
Function driver(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  must(cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result), name);
  if (found == nullptr) throw std::runtime_error(std::string("the driver has no ") + name);
  return reinterpret_cast<Function>(found);
}

// ---- Streams and memory

cudaStream_t new_stream(unsigned flags = cudaStreamNonBlocking) {
  cudaStream_t stream = nullptr;
  MUST(cudaStreamCreateWithFlags(&stream, flags));
  return stream;
}
cudaEvent_t new_event(unsigned flags = cudaEventDisableTiming) {
  cudaEvent_t event = nullptr;
  MUST(cudaEventCreateWithFlags(&event, flags));
  return event;
}
char* device_memory(size_t bytes) {
  void* memory = nullptr;
  MUST(cudaMalloc(&memory, bytes));
  return static_cast<char*>(memory);
}
char* pinned_memory(size_t bytes) {
  void* memory = nullptr;
  MUST(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable));
  return static_cast<char*>(memory);
}
char* pages(size_t bytes, int sharing = MAP_PRIVATE) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("mmap failed");
  return static_cast<char*>(memory);
}
/// fn(first, size) for each thread's share of `bytes`.
void in_parallel(int threads, size_t bytes, const std::function<void(size_t, size_t)>& fn) {
  std::vector<std::thread> crew;
  const size_t share = bytes / static_cast<size_t>(threads);
  for (int i = 1; i < threads; ++i) crew.emplace_back(fn, static_cast<size_t>(i) * share, share);
  fn(0, share);
  for (std::thread& one : crew) one.join();
}
void touch(char* memory, size_t bytes, int threads = 4) {
  in_parallel(threads, bytes, [&](size_t first, size_t size) {
    for (size_t i = first; i < first + size; i += 4096) memory[i] = 1;
  });
}

// ---- A stream that is held

// Runs until the word at `flag` is not 0, at most `limit` nanoseconds.
const char* const kSpinKernel = R"(
.version 7.0
.target sm_70
.address_size 64
.visible .entry spin(.param .u64 flag, .param .u64 limit)
{
  .reg .pred %p<3>;
  .reg .u32 %r<2>;
  .reg .u64 %d<6>;
  ld.param.u64 %d1, [flag];
  ld.param.u64 %d2, [limit];
  mov.u64 %d3, %globaltimer;
AGAIN:
  ld.relaxed.sys.global.u32 %r1, [%d1];
  setp.ne.u32 %p1, %r1, 0;
  @%p1 bra DONE;
  mov.u64 %d4, %globaltimer;
  sub.u64 %d5, %d4, %d3;
  setp.lt.u64 %p2, %d5, %d2;
  @%p2 bra AGAIN;
DONE:
  ret;
}
)";

/// Holds streams up by a kernel, by a wait for a word of memory, or by a host function.
class Hold {
 public:
  static constexpr const char* kKinds[] = {"kernel", "wait value", "host function"};

  Hold() : word_(reinterpret_cast<uint32_t*>(pinned_memory(4096))) {
    CUmodule module = nullptr;
    const CUresult error =
        driver<decltype(&cuModuleLoadData)>("cuModuleLoadData")(&module, kSpinKernel);
    if (error != CUDA_SUCCESS) return;  // `kernel_` stays null
    driver<decltype(&cuModuleGetFunction)>("cuModuleGetFunction")(&kernel_, module, "spin");
    launch_ = driver<decltype(&cuLaunchKernel)>("cuLaunchKernel");
  }
  ~Hold() { std::atomic_ref(*word_).store(1); }

  void begin(const std::string& kind, cudaStream_t stream) {
    std::atomic_ref(*word_).store(0);
    if (kind == "kernel") {
      if (kernel_ == nullptr) throw std::runtime_error("the driver compiles no PTX");
      CUdeviceptr flag = reinterpret_cast<CUdeviceptr>(word_);
      uint64_t limit = 3'000'000'000;
      void* arguments[] = {&flag, &limit};
      if (launch_(kernel_, 1, 1, 1, 1, 1, 1, 0, stream, arguments, nullptr) != CUDA_SUCCESS)
        throw std::runtime_error("cuLaunchKernel failed");
    } else if (kind == "wait value") {
      const auto wait = driver<decltype(&cuStreamWaitValue32)>("cuStreamWaitValue32");
      if (wait(stream, reinterpret_cast<CUdeviceptr>(word_), 1, CU_STREAM_WAIT_VALUE_EQ) !=
          CUDA_SUCCESS)
        throw std::runtime_error("cuStreamWaitValue32 failed");
    } else {
      const auto wait = [](void* word) {
        const auto begun = Clock::now();
        while (std::atomic_ref(*static_cast<uint32_t*>(word)).load() == 0 && since(begun) < 3)
          nap(50e-6);
      };
      MUST(cudaLaunchHostFunc(stream, wait, word_));
    }
    nap(0.01);  // until it runs
  }
  void end() {
    std::atomic_ref(*word_).store(1);
    MUST(cudaDeviceSynchronize());
  }

 private:
  uint32_t* word_;
  CUfunction kernel_ = nullptr;
  decltype(&cuLaunchKernel) launch_ = nullptr;
};

/// body(kind) for each kind of hold, with `stream` held meanwhile.
void while_held(cudaStream_t stream, const std::function<void()>& prepare,
                const std::function<void(const std::string&)>& body) {
  Hold hold;
  for (const char* kind : Hold::kKinds) {
    prepare();
    try {
      hold.begin(kind, stream);
    } catch (const std::exception& error) {
      say(kind, error.what());
      continue;
    }
    body(kind);
    hold.end();
  }
}

/// Whether a call waits for work of a stream that it does not name.
void held(const std::function<void()>& prepare, const std::function<cudaError_t()>& call) {
  std::future<cudaError_t> answer;
  const auto after_the_last = [&] {
    if (answer.valid()) answer.wait();
    prepare();
  };
  while_held(new_stream(), after_the_last, [&](const std::string& kind) {
    answer = std::async(std::launch::async, call);
    const bool waits = answer.wait_for(std::chrono::milliseconds(250)) != std::future_status::ready;
    say(kind, waits ? "waits" : "goes on: " + name_of(answer.get()));
  });
}

void held_register() {
  char* memory = nullptr;
  held([&] { touch(memory = pages(kMiB), kMiB); },
       [&] { return cudaHostRegister(memory, kMiB, cudaHostRegisterPortable); });
}
void held_unregister() {
  char* memory = nullptr;
  held(
      [&] {
        touch(memory = pages(kMiB), kMiB);
        MUST(cudaHostRegister(memory, kMiB, cudaHostRegisterPortable));
      },
      [&] { return cudaHostUnregister(memory); });
}
void held_host_alloc() {
  void* memory = nullptr;
  held([] {}, [&] { return cudaHostAlloc(&memory, kMiB, cudaHostAllocPortable); });
}
void held_host_free() {
  char* memory = nullptr;
  held([&] { memory = pinned_memory(kMiB); }, [&] { return cudaFreeHost(memory); });
}
void held_stream_create() {
  cudaStream_t made = nullptr;
  held([] {}, [&] { return cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking); });
}
void held_malloc() {
  void* memory = nullptr;
  held([] {}, [&] { return cudaMalloc(&memory, kMiB); });
}
void held_free() {
  char* memory = nullptr;
  held([&] { memory = device_memory(kMiB); }, [&] { return cudaFree(memory); });
}
void held_malloc_async() {
  const cudaStream_t other = new_stream();
  void* memory = nullptr;
  held([] {}, [&] { return cudaMallocAsync(&memory, 32 * kMiB, other); });
}
void held_free_async() {
  const cudaStream_t other = new_stream();
  void* memory = nullptr;
  held(
      [&] {
        MUST(cudaMallocAsync(&memory, 32 * kMiB, other));
        MUST(cudaStreamSynchronize(other));
      },
      [&] {
        cudaFreeAsync(memory, other);
        return cudaStreamSynchronize(other);
      });
}

void connections() {
  const char* setting = std::getenv("CUDA_DEVICE_MAX_CONNECTIONS");
  say("CUDA_DEVICE_MAX_CONNECTIONS", setting == nullptr ? "not set" : setting);
  constexpr int kStreams = 40;
  std::vector<cudaStream_t> streams;
  std::vector<cudaEvent_t> events;
  for (int i = 0; i < kStreams; ++i) {
    streams.push_back(new_stream());
    events.push_back(new_event());
  }
  char* host = pinned_memory(4096);
  char* device = device_memory(4096);
  const std::pair<const char*, std::function<cudaError_t(cudaStream_t)>> works[] = {
      {"copies to the host",
       [&](cudaStream_t s) { return cudaMemcpyAsync(host, device, 64, cudaMemcpyDefault, s); }},
      {"memsets", [&](cudaStream_t s) { return cudaMemsetAsync(device, 1, 64, s); }}};
  for (const auto& [what, work] : works) {
    while_held(
        streams[0], [] {},
        [&](const std::string& kind) {
          for (size_t i = 1; i < kStreams; ++i) {
            MUST(work(streams[i]));
            MUST(cudaEventRecord(events[i], streams[i]));
          }
          nap(0.1);
          std::string stopped;
          int count = 0;
          for (size_t i = 1; i < kStreams; ++i) {
            if (cudaEventQuery(events[i]) == cudaSuccess) continue;
            stopped += (count++ == 0 ? ": number " : ", ") + std::to_string(i + 1);
          }
          say(std::string(what) + " behind a " + kind,
              std::to_string(count) + " of 39 other streams stop" + stopped);
        });
  }
}

void blocking_stream() {
  const cudaStream_t a = new_stream(cudaStreamDefault), b = new_stream(cudaStreamDefault);
  const cudaStream_t c = new_stream();
  char* device = device_memory(4096);
  const cudaEvent_t fence = new_event(), after_b = new_event(), after_c = new_event();
  for (const bool fenced : {false, true}) {
    while_held(
        a, [] {},
        [&](const std::string& kind) {
          if (fenced) MUST(cudaEventRecord(fence, cudaStreamLegacy));
          const std::pair<cudaStream_t, cudaEvent_t> others[] = {{b, after_b}, {c, after_c}};
          for (const auto& [stream, event] : others) {
            MUST(cudaMemsetAsync(device, 1, 64, stream));
            MUST(cudaEventRecord(event, stream));
          }
          nap(0.1);
          const auto state = [](cudaEvent_t event) {
            return cudaEventQuery(event) == cudaSuccess ? "goes on" : "waits";
          };
          const std::string what = "blocking stream held by a " + std::string(kind) +
                                   (fenced ? ", an event recorded on the legacy stream" : "");
          say(what, std::string(fenced ? std::string("the event ") + state(fence) + ", " : "") +
                        "another blocking stream " + state(after_b) + ", a non-blocking one " +
                        state(after_c));
        });
  }
}

// ---- Others

void versions() {
  int runtime = 0, driver_version = 0, engines = 0, registered = 0, pools = 0, numa = -2;
  const auto begin = Clock::now();
  MUST(cudaFree(nullptr));
  say("first call", since(begin) * 1e3, "ms");
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver_version);
  say("runtime", std::to_string(runtime));
  say("driver", std::to_string(driver_version));
  cudaDeviceGetAttribute(&engines, cudaDevAttrAsyncEngineCount, 0);
  cudaDeviceGetAttribute(&registered, cudaDevAttrCanUseHostPointerForRegisteredMem, 0);
  cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, 0);
  cudaDeviceGetAttribute(&numa, cudaDevAttrHostNumaId, 0);
  say("copy engines", std::to_string(engines));
  say("one address for registered memory", registered ? "yes" : "no");
  say("memory pools", pools ? "yes" : "no");
  say("host NUMA node", std::to_string(numa));
  size_t free = 0, total = 0;
  MUST(cudaMemGetInfo(&free, &total));
  say("device memory free", static_cast<double>(free) / kGiB, "GiB");
}

void first_copy() {
  constexpr size_t kBytes = 64 * kMiB;
  char* host = pages(kBytes);
  std::memset(host, 7, kBytes);
  auto begin = Clock::now();
  MUST(cudaHostRegister(host, kBytes, cudaHostRegisterPortable));
  say("register 64 MiB", since(begin) * 1e3, "ms");
  char* device = device_memory(kBytes);
  MUST(cudaMemcpy(device, host, kBytes, cudaMemcpyDefault));
  std::memset(host, 0, kBytes);
  MUST(cudaMemcpy(host, device, kBytes, cudaMemcpyDefault));
  say("content", host[0] == 7 && host[kBytes - 1] == 7 ? "right" : "WRONG");
}

void fork_then_write() {
  for (const int sharing : {MAP_PRIVATE, MAP_SHARED}) {
    char* host = pages(4 * kMiB, sharing);
    std::memset(host, 1, 4 * kMiB);
    MUST(cudaHostRegister(host, 4 * kMiB, cudaHostRegisterPortable));
    char* device = device_memory(4 * kMiB);
    const pid_t child = fork();
    if (child == 0) {
      nap(0.2);
      _exit(host[0]);
    }
    std::memset(host, 2, 4 * kMiB);
    MUST(cudaMemcpy(device, host, 4 * kMiB, cudaMemcpyHostToDevice));
    char back = 0;
    MUST(cudaMemcpy(&back, device + kMiB, 1, cudaMemcpyDeviceToHost));
    MUST(cudaMemset(device, 3, 4 * kMiB));
    MUST(cudaMemcpy(host, device, 4 * kMiB, cudaMemcpyDeviceToHost));
    int status = 0;
    waitpid(child, &status, 0);
    const std::string what = sharing == MAP_PRIVATE ? "MAP_PRIVATE" : "MAP_SHARED";
    say(what + ", the parent's write reaches the device", back == 2 ? "yes" : "NO: stale");
    say(what + ", the device's write reaches the parent", host[kMiB] == 3 ? "yes" : "NO: stale");
    say(what + ", what the child reads", std::to_string(WEXITSTATUS(status)));
  }
}

cudaStream_t destroyed_stream() {
  const cudaStream_t stream = new_stream();
  MUST(cudaStreamDestroy(stream));
  return stream;
}
void destroyed_handle() {
  const cudaStream_t old = destroyed_stream(), made = new_stream();
  say("the next stream has the same handle", made == old ? "yes" : "no");
}
// One case each: a driver may crash.
void destroyed_query() { say("cudaStreamQuery", name_of(cudaStreamQuery(destroyed_stream()))); }
void destroyed_capturing() {
  cudaStreamCaptureStatus status{};
  say("cudaStreamIsCapturing", name_of(cudaStreamIsCapturing(destroyed_stream(), &status)));
}
void destroyed_record() {
  say("cudaEventRecord", name_of(cudaEventRecord(new_event(), destroyed_stream())));
}
void destroyed_wait() {
  const cudaEvent_t event = new_event();
  MUST(cudaEventRecord(event, new_stream()));
  say("cudaStreamWaitEvent", name_of(cudaStreamWaitEvent(destroyed_stream(), event, 0)));
}
void destroyed_device() {
  int device = -1;
  say("cudaStreamGetDevice", name_of(cudaStreamGetDevice(destroyed_stream(), &device)));
}
void destroyed_context() {
  CUcontext context = nullptr;
  const auto ask = driver<CUresult (*)(CUstream, CUcontext*)>("cuStreamGetCtx");
  say("cuStreamGetCtx", std::to_string(ask(destroyed_stream(), &context)));
  say("the context still works", name_of(cudaDeviceSynchronize()));
}

// ---- Timings

/// The time of one call, from blocks of `count` calls; `reset` runs between blocks.
void time_call(
    const std::string& fact, const std::function<void()>& call,
    const std::function<void()>& reset = [] { cudaDeviceSynchronize(); }, int count = 50) {
  std::vector<double> seconds;
  for (int block = 0; block < 41; ++block) {
    reset();
    const auto begin = Clock::now();
    for (int i = 0; i < count; ++i) call();
    if (block > 0) seconds.push_back(since(begin) / count);  // the first one warms up
  }
  reset();
  say_times(fact, seconds, 1e-9, "ns");
}

void time_calls() {
  const cudaStream_t stream = new_stream(), other = new_stream();
  const cudaEvent_t event = new_event();
  char* device = device_memory(kMiB);
  char* pinned = pinned_memory(kMiB);
  std::vector<char> pageable(kMiB);
  cudaPointerAttributes attributes{};
  cudaStreamCaptureStatus status{};
  CUcontext context = nullptr;
  int number = 0;
  MUST(cudaEventRecord(event, stream));
  time_call("steady_clock", [] { Clock::now(); });
  time_call("getpid", [] { getpid(); });
  time_call("cudaPointerGetAttributes, device",
            [&] { cudaPointerGetAttributes(&attributes, device); });
  time_call("cudaPointerGetAttributes, pinned",
            [&] { cudaPointerGetAttributes(&attributes, pinned); });
  time_call("cudaPointerGetAttributes, pageable",
            [&] { cudaPointerGetAttributes(&attributes, pageable.data()); });
  time_call("cudaGetDevice", [&] { cudaGetDevice(&number); });
  time_call("cudaSetDevice", [] { cudaSetDevice(0); });
  time_call("cudaStreamGetDevice", [&] { cudaStreamGetDevice(stream, &number); });
  const auto context_of = driver<CUresult (*)(CUstream, CUcontext*)>("cuStreamGetCtx");
  time_call("cuStreamGetCtx", [&] { context_of(stream, &context); });
  const auto push = driver<decltype(&cuCtxPushCurrent)>("cuCtxPushCurrent");
  const auto pop = driver<decltype(&cuCtxPopCurrent)>("cuCtxPopCurrent");
  time_call("cuCtxPushCurrent and cuCtxPopCurrent", [&] {
    push(context);
    pop(&context);
  });
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  time_call("cudaThreadExchangeStreamCaptureMode",
            [&] { cudaThreadExchangeStreamCaptureMode(&mode); });
  time_call("cudaStreamIsCapturing", [&] { cudaStreamIsCapturing(stream, &status); });
  time_call("cudaStreamQuery, idle", [&] { cudaStreamQuery(stream); });
  time_call("cudaEventQuery, complete", [&] { cudaEventQuery(event); });
  time_call("cudaEventRecord", [&] { cudaEventRecord(event, stream); });
  time_call("cudaEventRecord, legacy stream", [&] { cudaEventRecord(event, cudaStreamLegacy); });
  time_call("cudaStreamWaitEvent", [&] { cudaStreamWaitEvent(other, event, 0); });
  for (const size_t bytes : {size_t{256}, 64 * kKiB}) {
    time_call("cudaMemcpyAsync to pinned, issue, " + std::to_string(bytes) + " B", [&, bytes] {
      cudaMemcpyAsync(pinned, device, bytes, cudaMemcpyDeviceToHost, stream);
    });
    time_call(
        "copy to pinned and wait, " + std::to_string(bytes) + " B",
        [&, bytes] {
          cudaMemcpyAsync(pinned, device, bytes, cudaMemcpyDeviceToHost, stream);
          cudaStreamSynchronize(stream);
        },
        [] {}, 20);
  }
  time_call("cudaMemcpy to pageable, 256 B",
            [&] { cudaMemcpy(pageable.data(), device, 256, cudaMemcpyDeviceToHost); });
  time_call(
      "cudaEventCreate and cudaEventDestroy", [] { cudaEventDestroy(new_event()); }, [] {}, 10);
  time_call(
      "cudaStreamCreate and cudaStreamDestroy", [] { cudaStreamDestroy(new_stream()); }, [] {}, 5);
  time_call(
      "three threads started and joined", [] { in_parallel(4, 4, [](size_t, size_t) {}); }, [] {},
      5);
}

/// From the issue of a copy until its end is known, by each way of waiting.
void time_wake() {
  constexpr size_t kMost = 64 * kMiB;
  const cudaStream_t stream = new_stream();
  char* device = device_memory(kMost);
  char* pinned = pinned_memory(kMost);
  const cudaEvent_t plain = new_event();
  const cudaEvent_t blocking = new_event(cudaEventDisableTiming | cudaEventBlockingSync);
  for (const size_t bytes : {4 * kKiB, kMiB, kMost}) {
    double predicted = 0;  // what a spinning wait took
    const auto spin = [&] {
      while (cudaEventQuery(plain) == cudaErrorNotReady) {
      }
    };
    const std::pair<const char*, std::function<void()>> ways[] = {
        {"spins on cudaEventQuery", spin},
        {"sleeps, then spins for the last 100 us",
         [&] {
           if (predicted > 100e-6) nap(predicted - 100e-6);
           spin();
         }},
        {"cudaEventSynchronize", [&] { cudaEventSynchronize(plain); }},
        {"cudaEventSynchronize, blocking", [&] { cudaEventSynchronize(blocking); }},
        {"cudaStreamSynchronize", [&] { cudaStreamSynchronize(stream); }}};
    for (const auto& [name, wait] : ways) {
      std::vector<double> seconds;
      for (int i = 0; i < 31; ++i) {
        const auto begin = Clock::now();
        MUST(cudaMemcpyAsync(pinned, device, bytes, cudaMemcpyDeviceToHost, stream));
        MUST(cudaEventRecord(plain, stream));
        MUST(cudaEventRecord(blocking, stream));
        wait();
        if (i > 0) seconds.push_back(since(begin));
        MUST(cudaStreamSynchronize(stream));
      }
      if (predicted == 0) {
        predicted = *std::min_element(seconds.begin(), seconds.end());
      }
      say_times(std::to_string(bytes / kKiB) + " KiB, " + name, seconds, 1e-6, "us");
    }
  }
}

void time_link() {
  constexpr size_t kBytes = 256 * kMiB;
  char* device = device_memory(2 * kBytes);
  char* pinned = pinned_memory(2 * kBytes);
  touch(pinned, 2 * kBytes);
  const cudaStream_t up = new_stream(), down = new_stream();
  const auto rate = [&](const char* what, bool to_host, bool to_device) {
    std::vector<double> seconds;
    for (int i = 0; i < 8; ++i) {
      const auto begin = Clock::now();
      if (to_host) MUST(cudaMemcpyAsync(pinned, device, kBytes, cudaMemcpyDefault, down));
      if (to_device)
        MUST(cudaMemcpyAsync(device + kBytes, pinned + kBytes, kBytes, cudaMemcpyDefault, up));
      MUST(cudaDeviceSynchronize());
      if (i > 0) seconds.push_back(since(begin));
    }
    say(what, kBytes / *std::min_element(seconds.begin(), seconds.end()) / 1e9, "GB/s");
  };
  rate("to the host, 256 MiB", true, false);
  rate("to the device, 256 MiB", false, true);
  rate("both at once, each", true, true);
}

// A pool that keeps `threshold` bytes of freed memory.
cudaMemPool_t new_pool(cudaMemLocationType where, uint64_t threshold) {
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = where;
  cudaMemPool_t pool = nullptr;
  MUST(cudaMemPoolCreate(&pool, &properties));
  MUST(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
  return pool;
}

void time_alloc() {
  const cudaStream_t stream = new_stream();
  for (const uint64_t threshold : {uint64_t{0}, UINT64_MAX}) {
    const cudaMemPool_t pool = new_pool(cudaMemLocationTypeDevice, threshold);
    time_call(
        std::string("32 MiB from a pool, freed, waited for; threshold ") +
            (threshold ? "max" : "0"),
        [&] {
          void* memory = nullptr;
          MUST(cudaMallocFromPoolAsync(&memory, 32 * kMiB, pool, stream));
          MUST(cudaFreeAsync(memory, stream));
          MUST(cudaStreamSynchronize(stream));
        },
        [] {}, 2);
  }
  time_call(
      "cudaMalloc and cudaFree, 32 MiB", [] { cudaFree(device_memory(32 * kMiB)); }, [] {}, 2);
}

void time_host_pool() {
  const cudaMemPool_t pool = new_pool(cudaMemLocationTypeHostNuma, UINT64_MAX);
  const cudaStream_t stream = new_stream();
  for (const size_t bytes : {4 * kKiB, kMiB, 64 * kMiB}) {
    time_call(std::to_string(bytes / kKiB) + " KiB taken and freed", [&, bytes] {
      void* memory = nullptr;
      MUST(cudaMallocFromPoolAsync(&memory, bytes, pool, stream));
      MUST(cudaFreeAsync(memory, stream));
    });
  }
}

void time_register() {
  constexpr size_t kBytes = 512 * kMiB;
  const struct {
    const char* name;
    int sharing, advice;
  } kinds[] = {{"4 KiB pages", MAP_PRIVATE, MADV_NOHUGEPAGE},
               {"huge pages", MAP_PRIVATE, MADV_HUGEPAGE},
               {"shared, 4 KiB pages", MAP_SHARED, MADV_NOHUGEPAGE},
               {"shared, huge pages", MAP_SHARED, MADV_HUGEPAGE}};
  for (const auto& kind : kinds) {
    char* memory = pages(kBytes, kind.sharing);
    madvise(memory, kBytes, kind.advice);
    const auto timed = [&](const char* what, const std::function<void()>& call) {
      const auto begin = Clock::now();
      call();
      say(std::string(kind.name) + ", " + what, since(begin) * 1e3 * kGiB / kBytes, "ms/GiB");
    };
    timed("touched by 4 threads", [&] { touch(memory, kBytes); });
    timed("cudaHostRegister",
          [&] { MUST(cudaHostRegister(memory, kBytes, cudaHostRegisterPortable)); });
    timed("cudaHostUnregister", [&] { MUST(cudaHostUnregister(memory)); });
    munmap(memory, kBytes);
  }
}

void copy_past_cache(char* target, const char* source, size_t bytes) {
#if defined(__x86_64__)
  for (size_t i = 0; i < bytes; i += 64) {
    for (size_t j = i; j < i + 64; j += 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(target + j),
                       _mm_load_si128(reinterpret_cast<const __m128i*>(source + j)));
  }
  _mm_sfence();
#else
  std::memcpy(target, source, bytes);
#endif
}

void time_memcpy() {
  constexpr size_t kBytes = 256 * kMiB;
  char* pinned = pinned_memory(kBytes);
  char* target = pages(kBytes);
  touch(pinned, kBytes);
  touch(target, kBytes);
  using Copy = void (*)(char*, const char*, size_t);
  const Copy plain = [](char* to, const char* from, size_t n) { std::memcpy(to, from, n); };
  const std::pair<const char*, Copy> copies[] = {{"memcpy", plain},
                                                 {"non-temporal", copy_past_cache}};
  const auto rate = [&](const std::string& what, int threads, Copy copy, int rounds, bool fresh) {
    double best = 1e9;
    for (int i = 0; i < rounds; ++i) {
      char* to = fresh ? pages(kBytes) : target;
      if (fresh && i % 2 == 1) madvise(to, kBytes, MADV_HUGEPAGE);
      const auto begin = Clock::now();
      in_parallel(threads, kBytes,
                  [&](size_t first, size_t size) { copy(to + first, pinned + first, size); });
      best = std::min(best, since(begin));
      if (fresh) {
        munmap(to, kBytes);
        say(what + (i % 2 == 1 ? ", advised huge pages" : ""), kBytes / best / 1e9, "GB/s");
        best = 1e9;
      }
    }
    if (!fresh) say(what, kBytes / best / 1e9, "GB/s");
  };
  for (const int threads : {1, 2, 4, 8}) {
    const std::string by = std::to_string(threads) + " threads, ";
    for (const auto& [name, copy] : copies) rate(by + name, threads, copy, 5, false);
    rate(by + "memcpy to fresh pages", threads, plain, 2, true);
  }
}

void time_batch() {
  const cudaStream_t stream = new_stream();
  char* device = device_memory(64 * kMiB);
  char* pinned = pinned_memory(64 * kMiB);
  const std::pair<size_t, size_t> shapes[] = {
      {16, 256}, {4096, 256}, {16, 64 * kKiB}, {1024, 64 * kKiB}};
  for (const auto& [count, bytes] : shapes) {
    std::vector<void*> targets(count), sources(count);
    std::vector<size_t> sizes(count, bytes);
    for (size_t i = 0; i < count; ++i) {
      targets[i] = pinned + i * bytes;
      sources[i] = device + i * bytes;
    }
    cudaMemcpyAttributes attributes{};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    size_t first = 0;
    const std::string what = std::to_string(count) + " x " + std::to_string(bytes) + " B, ";
    const auto timed = [&](const char* how, const std::function<void()>& issue) {
      std::vector<double> issued, all;
      for (int i = 0; i < 16; ++i) {
        const auto begin = Clock::now();
        issue();
        const double enqueued = since(begin);
        MUST(cudaStreamSynchronize(stream));
        if (i == 0) continue;
        issued.push_back(enqueued);
        all.push_back(since(begin));
      }
      say_times(what + how + ", issue", issued, 1e-6, "us");
      say_times(what + how + ", all", all, 1e-6, "us");
    };
    timed("a loop of cudaMemcpyAsync", [&] {
      for (size_t i = 0; i < count; ++i)
        cudaMemcpyAsync(targets[i], sources[i], bytes, cudaMemcpyDeviceToHost, stream);
    });
    timed("one copy of as many bytes",
          [&] { cudaMemcpyAsync(pinned, device, count * bytes, cudaMemcpyDeviceToHost, stream); });
    try {
      timed("cudaMemcpyBatchAsync", [&] {
#if CUDART_VERSION >= 13000
        std::vector<const void*> from(sources.begin(), sources.end());
        MUST(cudaMemcpyBatchAsync(targets.data(), from.data(), sizes.data(), count, &attributes,
                                  &first, 1, stream));
#else
      size_t failed = 0;
      MUST(cudaMemcpyBatchAsync(targets.data(), sources.data(), sizes.data(), count, &attributes,
                                &first, 1, &failed, stream));
#endif
      });
    } catch (const std::exception& error) {  // older drivers have none
      say(what + "cudaMemcpyBatchAsync", error.what());
    }
  }
}

// ---- The cases

const std::pair<const char*, void (*)()> kCases[] = {
    {"versions", versions},
    {"first copy", first_copy},
    {"held: cudaHostRegister", held_register},
    {"held: cudaHostUnregister", held_unregister},
    {"held: cudaHostAlloc", held_host_alloc},
    {"held: cudaFreeHost", held_host_free},
    {"held: cudaStreamCreate", held_stream_create},
    {"held: cudaMalloc", held_malloc},
    {"held: cudaFree", held_free},
    {"held: cudaMallocAsync", held_malloc_async},
    {"held: cudaFreeAsync and wait", held_free_async},
    {"connections", connections},
    {"blocking stream", blocking_stream},
    {"fork, then write", fork_then_write},
    {"destroyed: handle", destroyed_handle},
    {"destroyed: query", destroyed_query},
    {"destroyed: capturing", destroyed_capturing},
    {"destroyed: record", destroyed_record},
    {"destroyed: wait", destroyed_wait},
    {"destroyed: device", destroyed_device},
    {"destroyed: context", destroyed_context},
    {"time: calls", time_calls},
    {"time: wake", time_wake},
    {"time: link", time_link},
    {"time: device pool", time_alloc},
    {"time: host pool", time_host_pool},
    {"time: register", time_register},
    {"time: memcpy", time_memcpy},
    {"time: batch", time_batch},
};

void run(const char* name, void (*body)()) {
  running = name;
  std::string error;
  try {
    body();
  } catch (const std::exception& failure) {
    error = failure.what();
  }
  cudaGetLastError();
  std::printf(R"({"case": "%s", "ended": "%s"})"
              "\n",
              name, error.c_str());
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> wanted(argv + 1, argv + argc);
  if (wanted == std::vector<std::string>{"--list"}) {
    for (const auto& [name, body] : kCases) std::puts(name);
    return 0;
  }
  for (const std::string& name : wanted) {
    if (std::none_of(std::begin(kCases), std::end(kCases),
                     [&](const auto& one) { return name == one.first; })) {
      std::fprintf(stderr, "no case is called '%s': --list names them\n", name.c_str());
      return 2;
    }
  }
  int devices = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&devices); error != cudaSuccess) {
    std::fprintf(stderr, "no GPU: %s\n", name_of(error).c_str());
    return 3;
  }
  for (const auto& [name, body] : kCases) {
    if (wanted.empty() || std::find(wanted.begin(), wanted.end(), name) != wanted.end())
      run(name, body);
  }
  std::_Exit(0);  // some answers leave the driver in no state to end in
}
