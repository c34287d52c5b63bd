// SPDX-License-Identifier: Apache-2.0
// Device to host into memory of the library's own pool, against one cudaMemcpyAsync into memory of
// the same kind.
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/cuda/staging.h"
#include "pattern.h"
#include "raw_cuda.h"
#include "session.h"

namespace dlbridge::bars {
namespace {

constexpr uint32_t kSeed = 11;

// Device memory with content, and the views that the contenders take.
struct Source {
  Source(const Session& session, int64_t size)
      : bytes(size),
        shape(Shape::flat(size)),
        memory(size),
        device{kDLCUDA, session.options().device},
        view(shape.view(device, memory.data())),
        stream(session.stream()),
        producer(cuda::stream_of(device.device_id, static_cast<void*>(stream))) {
    fill_device(memory.data(), bytes, kSeed);
  }

  int64_t bytes;
  Shape shape;
  DeviceMemory memory;
  DLDevice device;
  TensorView view;
  cudaStream_t stream;
  Stream producer;
};

void copy_raw(const Source& source, void* to) {
  must(cudaMemcpyAsync(to, source.view.data, static_cast<size_t>(source.bytes),
                       cudaMemcpyDeviceToHost, source.stream),
       "cudaMemcpyAsync");
  must(cudaStreamSynchronize(source.stream), "cudaStreamSynchronize");
}

// Into memory of the pool: registered as that of the results is.
Contender raw_into(const Source& source, const Loan& pinned) {
  return {"cudaMemcpyAsync + cudaStreamSynchronize",
          [&source, &pinned, looks = FirstThorough()]() mutable {
            const double seconds = timed([&] { copy_raw(source, pinned.view().data); });
            expect_content(pinned.view(), source.view, kSeed, looks.next());
            spoil(pinned.view());
            return seconds;
          }};
}

void freed(Session& session, const Bar& bar, int64_t bytes) {
  const Source source(session, bytes);
  const Loan pinned = cuda::pinned_empty(source.view);
  const Contender ours{
      "stage_to_host", [&, looks = FirstThorough()]() mutable {
        Loan result;
        double seconds = timed([&] { result = cuda::stage_to_host(source.view, source.producer); });
        expect_content(result.view(), source.view, kSeed, looks.next());
        spoil(result.view());
        seconds += timed([&] { result.reset(); });
        return seconds;
      }};
  const auto series = session.contest({ours, raw_into(source, pinned)});
  session.speed(bar, series[0], series[1]);
}

int64_t free_host_bytes() {
  return int64_t{sysconf(_SC_AVPHYS_PAGES)} * int64_t{sysconf(_SC_PAGESIZE)};
}

// All results are kept, so the pool has to grow at every round.
void held(Session& session, const Bar& against_pageable, const Bar& against_raw, int64_t bytes) {
  const int64_t results = session.options().rounds + 3 + 2;
  const auto limit = static_cast<int64_t>(cuda::pinned_stats().limit);
  if (results * bytes > std::min(limit, free_host_bytes() / 2)) {
    const std::string why = std::to_string(results) + " results of " + size_name(bytes) +
                            " do not fit into the pool's limit or the free memory";
    session.skip(against_pageable, why);
    return session.skip(against_raw, why);
  }
  cuda::trim_pinned();
  const Source source(session, bytes);
  const Loan pinned = cuda::pinned_empty(source.view);
  std::vector<Loan> kept;
  const Contender ours{"stage_to_host, kept", [&, looks = FirstThorough()]() mutable {
                         Loan result;
                         const double seconds = timed(
                             [&] { result = cuda::stage_to_host(source.view, source.producer); });
                         expect_content(result.view(), source.view, kSeed, looks.next());
                         kept.push_back(std::move(result));
                         return seconds;
                       }};
  const Contender pageable{"cudaMemcpy into fresh pageable memory",
                           [&, looks = FirstThorough()]() mutable {
                             std::unique_ptr<HostMemory> to;
                             const double seconds = timed([&] {
                               to = std::make_unique<HostMemory>(bytes, HostMemory::Pages::fresh);
                               copy_raw(source, to->data());
                             });
                             expect_content(source.shape.view({kDLCPU, 0}, to->data()), source.view,
                                            kSeed, looks.next());
                             return seconds;
                           }};
  const auto series = session.contest({ours, pageable, raw_into(source, pinned)});
  session.speed(against_pageable, series[0], series[1]);
  session.speed(against_raw, series[0], series[2]);
  kept.clear();
  cuda::trim_pinned();
}

}  // namespace

std::vector<Case> pooled_cases() {
  std::vector<Case> cases;
  for (const int64_t bytes : {64 * kMiB, 256 * kMiB, kGiB}) {
    const std::string size = size_name(bytes);
    cases.push_back({"d2h-pooled/" + size,
                     {{"d2h pooled, " + size + ", freed",
                       "time of raw / ours",
                       Sense::at_least,
                       bytes < 256 * kMiB ? 0.97 : 0.99,
                       {}}},
                     [bytes](Session& session, const std::vector<Bar>& bars) {
                       freed(session, bars[0], bytes);
                     }});
  }
  for (const int64_t bytes : {64 * kMiB, 256 * kMiB, kGiB}) {
    const std::string size = size_name(bytes);
    cases.push_back({"d2h-held/" + size,
                     {{"d2h pooled, " + size + ", held",
                       "time of cudaMemcpy into fresh pageable memory / ours",
                       Sense::at_least,
                       1.0,
                       {}},
                      {"d2h pooled, " + size + ", held, beside raw into registered memory",
                       "time of raw / ours",
                       Sense::at_least,
                       {},
                       {}}},
                     [bytes](Session& session, const std::vector<Bar>& bars) {
                       held(session, bars[0], bars[1], bytes);
                     }});
  }
  return cases;
}

}  // namespace dlbridge::bars
