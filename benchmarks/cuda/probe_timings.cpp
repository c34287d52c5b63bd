// SPDX-License-Identifier: Apache-2.0
// What single calls of CUDA, and copies on the host, take on this machine.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "probe.h"

namespace dlbridge::probe {
namespace {

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
  MUST(cudaEventRecord(event, stream));
  time_call("steady_clock", [] { Clock::now(); });
  time_call("getpid", [] { getpid(); });
  time_call("cudaPointerGetAttributes, device",
            [&] { cudaPointerGetAttributes(&attributes, device); });
  time_call("cudaPointerGetAttributes, pinned",
            [&] { cudaPointerGetAttributes(&attributes, pinned); });
  time_call("cudaPointerGetAttributes, pageable",
            [&] { cudaPointerGetAttributes(&attributes, pageable.data()); });
  const auto context_of = driver<decltype(&cuStreamGetCtx)>("cuStreamGetCtx");
  time_call("cuStreamGetCtx", [&] { context_of(stream, &context); });
  const auto current = driver<decltype(&cuCtxGetCurrent)>("cuCtxGetCurrent");
  time_call("cuCtxGetCurrent", [&] { current(&context); });
  const auto id_of = driver<decltype(&cuCtxGetId)>("cuCtxGetId");
  unsigned long long id = 0;
  time_call("cuCtxGetId", [&] { id_of(context, &id); });
  const auto range_of = driver<decltype(&cuMemGetAddressRange)>("cuMemGetAddressRange");
  CUdeviceptr base = 0;
  size_t bytes_there = 0;
  time_call("cuMemGetAddressRange",
            [&] { range_of(&base, &bytes_there, reinterpret_cast<CUdeviceptr>(device)); });
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
cudaMemPool_t new_pool(uint64_t threshold) {
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  cudaMemPool_t pool = nullptr;
  MUST(cudaMemPoolCreate(&pool, &properties));
  MUST(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
  return pool;
}

void time_alloc() {
  const cudaStream_t stream = new_stream();
  for (const uint64_t threshold : {uint64_t{0}, UINT64_MAX}) {
    const cudaMemPool_t pool = new_pool(threshold);
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
  for (const int threads : {1, 2, 4, 8}) {
    for (const auto& [name, copy] : copies) {
      double best = 1e9;
      for (int i = 0; i < 5; ++i) {
        const auto begin = Clock::now();
        in_parallel(threads, kBytes, [&, copy = copy](size_t first, size_t size) {
          copy(target + first, pinned + first, size);
        });
        best = std::min(best, since(begin));
      }
      say(std::to_string(threads) + " threads, " + name, kBytes / best / 1e9, "GB/s");
    }
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

}  // namespace

std::vector<Case> timings() {
  return {
      {"time: calls", time_calls},       {"time: wake", time_wake},
      {"time: link", time_link},         {"time: device pool", time_alloc},
      {"time: register", time_register}, {"time: memcpy", time_memcpy},
      {"time: batch", time_batch},
  };
}

}  // namespace dlbridge::probe
