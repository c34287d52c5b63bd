// SPDX-License-Identifier: Apache-2.0
// What this machine's CUDA does where the CUDA module relies on it, or where its documentation says
// nothing.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include "probe.h"

namespace dlbridge::probe {
namespace {

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

// Whether a call waits for work of a stream that it does not name. `prepare` runs before that
// stream is held.
Case held(const char* name, const std::function<void()>& prepare,
          const std::function<cudaError_t()>& call) {
  return {name, [=] {
            std::future<cudaError_t> answer;
            const auto after_the_last = [&] {
              if (answer.valid()) answer.wait();
              prepare();
            };
            while_held(new_stream(), after_the_last, [&](const std::string& kind) {
              answer = std::async(std::launch::async, call);
              const bool goes_on =
                  answer.wait_for(std::chrono::milliseconds(250)) == std::future_status::ready;
              say(kind, goes_on ? "goes on: " + name_of(answer.get()) : "waits");
            });
          }};
}

std::vector<Case> held_cases() {
  static void* memory = nullptr;
  static cudaStream_t other = nullptr;
  const auto nothing = [] {};
  const auto map = [] { touch(static_cast<char*>(memory = pages(kMiB)), kMiB); };
  const auto add = [] { return cudaHostRegister(memory, kMiB, cudaHostRegisterPortable); };
  const auto make = [] { return cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking); };
  const auto allocate = [] { return cudaMallocAsync(&memory, 32 * kMiB, other); };
  const auto mapped = [=] {
    map();
    MUST(add());
  };
  const auto allocated = [=] {
    MUST(make());
    MUST(allocate());
    MUST(cudaStreamSynchronize(other));
  };
  const auto free_and_wait = [] {
    cudaFreeAsync(memory, other);
    return cudaStreamSynchronize(other);
  };
  return {
      held("held: cudaHostRegister", map, add),
      held("held: cudaHostUnregister", mapped, [] { return cudaHostUnregister(memory); }),
      held("held: cudaHostAlloc", nothing, [] { return cudaHostAlloc(&memory, kMiB, 0); }),
      held(
          "held: cudaFreeHost", [] { memory = pinned_memory(kMiB); },
          [] { return cudaFreeHost(memory); }),
      held("held: cudaStreamCreate", nothing, make),
      held("held: cudaMalloc", nothing, [] { return cudaMalloc(&memory, kMiB); }),
      held(
          "held: cudaFree", [] { memory = device_memory(kMiB); }, [] { return cudaFree(memory); }),
      held(
          "held: cudaMallocAsync", [=] { MUST(make()); }, allocate),
      held("held: cudaFreeAsync and wait", allocated, free_and_wait),
  };
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
          if (!fenced)
            say("legacy stream, beside a " + kind, name_of(cudaStreamQuery(cudaStreamLegacy)));
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
  const auto begin = Clock::now();
  MUST(cudaFree(nullptr));
  say("first call", since(begin) * 1e3, "ms");
  int number = 0;
  MUST(cudaRuntimeGetVersion(&number));
  say("runtime", std::to_string(number));
  MUST(cudaDriverGetVersion(&number));
  say("driver", std::to_string(number));
  const std::pair<const char*, cudaDeviceAttr> attributes[] = {
      {"copy engines", cudaDevAttrAsyncEngineCount},
      {"one address for registered memory", cudaDevAttrCanUseHostPointerForRegisteredMem},
      {"memory pools", cudaDevAttrMemoryPoolsSupported},
      {"host and device may use managed memory at once", cudaDevAttrConcurrentManagedAccess},
      {"host NUMA node", cudaDevAttrHostNumaId}};
  for (const auto& [name, attribute] : attributes) {
    MUST(cudaDeviceGetAttribute(&number, attribute, 0));
    say(name, std::to_string(number));
  }
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

// What a call answers to the handle of a stream that was destroyed.
Case destroyed(const char* name, const std::function<std::string(cudaStream_t)>& answer) {
  return {name, [=] {
            const cudaStream_t stream = new_stream();
            MUST(cudaStreamDestroy(stream));
            say("answer", answer(stream));
            say("the device still works", name_of(cudaDeviceSynchronize()));
          }};
}

std::string reuse(cudaStream_t old) { return new_stream() == old ? "used again" : "another one"; }
std::string query(cudaStream_t old) { return name_of(cudaStreamQuery(old)); }
std::string capturing(cudaStream_t old) {
  cudaStreamCaptureStatus status{};
  return name_of(cudaStreamIsCapturing(old, &status));
}
std::string record(cudaStream_t old) { return name_of(cudaEventRecord(new_event(), old)); }
std::string wait(cudaStream_t old) {
  const cudaEvent_t event = new_event();
  MUST(cudaEventRecord(event, new_stream()));
  return name_of(cudaStreamWaitEvent(old, event, 0));
}
std::string context(cudaStream_t old) {
  CUcontext found = nullptr;
  return std::to_string(driver<decltype(&cuStreamGetCtx)>("cuStreamGetCtx")(old, &found));
}

}  // namespace

std::vector<Case> questions() {
  std::vector<Case> cases = held_cases();
  cases.insert(cases.begin(), {{"versions", versions}, {"first copy", first_copy}});
  cases.insert(cases.end(), {
                                {"connections", connections},
                                {"blocking stream", blocking_stream},
                                {"fork, then write", fork_then_write},
                                destroyed("destroyed: handle", reuse),
                                destroyed("destroyed: query", query),
                                destroyed("destroyed: capturing", capturing),
                                destroyed("destroyed: record", record),
                                destroyed("destroyed: wait", wait),
                                destroyed("destroyed: context", context),
                            });
  return cases;
}

}  // namespace dlbridge::probe
