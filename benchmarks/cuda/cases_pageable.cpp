// SPDX-License-Identifier: Apache-2.0
// Copies between device memory and ordinary host memory, against what the machine allows: a copy by
// the device through pinned slots, and a copy on the host between the same slots and the same
// memory, at the same time and without waiting for one another. No order of chunks can be faster.
#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>

#include "crew.h"
#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/cuda/staging.h"
#include "pattern.h"
#include "raw_cuda.h"
#include "session.h"

namespace dlbridge::bars {
namespace {

constexpr uint32_t kSeed = 23;
constexpr int64_t kSlot = 4 * kMiB;
constexpr int64_t kRing = 8 * kSlot;

enum class Way { to_host, to_device };

// The bound. The number of threads is the one that was fastest when it was made.
class Bound {
 public:
  Bound(Way way, void* host, void* device, int64_t bytes, cudaStream_t stream)
      : way_(way),
        host_(static_cast<std::byte*>(host)),
        device_(static_cast<std::byte*>(device)),
        bytes_(bytes),
        stream_(stream),
        crew_(std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 16)),
        ring_shape_(Shape::flat(kRing)),
        ring_(cuda::pinned_empty(ring_shape_.view({kDLCPU, 0}, nullptr))) {
    double best = 1e9;
    for (int threads = 1; threads <= crew_.size(); threads *= 2) {
      run(threads);
      const double seconds = std::min(run(threads), run(threads));
      if (seconds >= best) continue;
      best = seconds;
      threads_ = threads;
    }
  }

  double run() { return run(threads_); }
  int threads() const noexcept { return threads_; }

 private:
  double run(int threads) {
    const Stopwatch watch;
    crew_.start(threads, [this, threads](int index) { copy_share(index, threads); });
    for (int64_t done = 0; done < bytes_; done += kSlot) {
      std::byte* slot = ring() + done % kRing;
      const auto piece = static_cast<size_t>(std::min(kSlot, bytes_ - done));
      must(way_ == Way::to_host
               ? cudaMemcpyAsync(slot, device_ + done, piece, cudaMemcpyDeviceToHost, stream_)
               : cudaMemcpyAsync(device_ + done, slot, piece, cudaMemcpyHostToDevice, stream_),
           "cudaMemcpyAsync");
    }
    must(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    crew_.finish();
    return watch.seconds();
  }

  // Slot by slot, each thread its part of every slot, as a ring has to be emptied.
  void copy_share(int index, int threads) {
    const int64_t share = (kSlot / threads + 63) / 64 * 64;
    for (int64_t done = 0; done < bytes_; done += kSlot) {
      const int64_t slot_bytes = std::min(kSlot, bytes_ - done);
      const int64_t begin = std::min(slot_bytes, index * share);
      const int64_t end = std::min(slot_bytes, begin + share);
      std::byte* slot = ring() + done % kRing + begin;
      std::byte* outside = host_ + done + begin;
      if (way_ == Way::to_host)
        std::memcpy(outside, slot, static_cast<size_t>(end - begin));
      else
        std::memcpy(slot, outside, static_cast<size_t>(end - begin));
    }
  }

  std::byte* ring() const noexcept { return static_cast<std::byte*>(ring_.view().data); }

  Way way_;
  std::byte* host_;
  std::byte* device_;
  int64_t bytes_;
  cudaStream_t stream_;
  Crew crew_;
  Shape ring_shape_;
  Loan ring_;
  int threads_ = 1;
};

std::string threads_note(const Bound& bound) {
  return "host copy of the bound by " + std::to_string(bound.threads()) + " threads";
}

void to_host(Session& session, const Bar& warm, const Bar& fresh, int64_t bytes) {
  const Shape shape = Shape::flat(bytes);
  const DeviceMemory memory(bytes);
  fill_device(memory.data(), bytes, kSeed);
  const DLDevice device{kDLCUDA, session.options().device};
  const TensorView source = shape.view(device, memory.data());
  const Stream producer = cuda::stream_of(device.device_id, static_cast<void*>(session.stream()));
  const HostMemory used(bytes, HostMemory::Pages::touched);
  const HostMemory other(bytes, HostMemory::Pages::touched);
  Bound bound(Way::to_host, other.data(), memory.data(), bytes, session.stream());

  const auto bring = [&](void* to, Look look) {
    const TensorView out = shape.view({kDLCPU, 0}, to);
    const double seconds = timed([&] { cuda::stage(source, out, producer); });
    expect_content(out, source, kSeed, look);
    spoil(out);
    return seconds;
  };
  const Contender into_warm{"stage_to_host, warm out", [&, looks = FirstThorough()]() mutable {
                              return bring(used.data(), looks.next());
                            }};
  const Contender into_fresh{"stage_to_host, fresh out", [&, looks = FirstThorough()]() mutable {
                               const HostMemory to(bytes, HostMemory::Pages::fresh);
                               return bring(to.data(), looks.next());
                             }};
  const Contender at_once{"DMA and memcpy at once", [&] { return bound.run(); }};
  const auto series = session.contest({into_warm, into_fresh, at_once});
  session.speed(warm, series[0], series[2], threads_note(bound));
  session.speed(fresh, series[1], series[2], threads_note(bound));
}

void to_device(Session& session, const Bar& bar, int64_t bytes) {
  const Shape shape = Shape::flat(bytes);
  const DeviceMemory memory(bytes);
  const DLDevice device{kDLCUDA, session.options().device};
  const TensorView target = shape.view(device, memory.data());
  const Stream consumer = cuda::stream_of(device.device_id, static_cast<void*>(session.stream()));
  const HostMemory host(bytes, HostMemory::Pages::fresh);
  fill_host(host.data(), bytes, kSeed);
  const TensorView source = shape.view({kDLCPU, 0}, host.data());
  const HostMemory other(bytes, HostMemory::Pages::touched);
  const DeviceMemory elsewhere(bytes);
  Bound bound(Way::to_device, other.data(), elsewhere.data(), bytes, session.stream());

  const Contender ours{
      "stage + cudaStreamSynchronize", [&, looks = FirstThorough()]() mutable {
        must(cudaMemsetAsync(memory.data(), 0xee, static_cast<size_t>(bytes), session.stream()),
             "cudaMemsetAsync");
        must(cudaStreamSynchronize(session.stream()), "cudaStreamSynchronize");
        const double seconds = timed([&] {
          cuda::stage(source, target, consumer);
          must(cudaStreamSynchronize(session.stream()), "cudaStreamSynchronize");
        });
        expect_device_content(target, source, kSeed, looks.next());
        return seconds;
      }};
  const Contender at_once{"DMA and memcpy at once", [&] { return bound.run(); }};
  const auto series = session.contest({ours, at_once});
  session.speed(bar, series[0], series[1], threads_note(bound));
}

}  // namespace

std::vector<Case> pageable_cases() {
  std::vector<Case> cases;
  const std::string figure = "time of DMA and memcpy at once / ours";
  for (const int64_t bytes : {64 * kMiB, 256 * kMiB, kGiB}) {
    const std::string size = size_name(bytes);
    cases.push_back(
        {"d2h-out/" + size,
         {{"d2h into pageable out, " + size + ", warm", figure, Sense::at_least, 0.80, 0.92},
          {"d2h into pageable out, " + size + ", fresh", figure, Sense::at_least, 0.40, 0.70}},
         [bytes](Session& session, const std::vector<Bar>& bars) {
           to_host(session, bars[0], bars[1], bytes);
         }});
    cases.push_back({"h2d-pageable/" + size,
                     {{"h2d from pageable, " + size, figure, Sense::at_least, 0.80, 0.92}},
                     [bytes](Session& session, const std::vector<Bar>& bars) {
                       to_device(session, bars[0], bytes);
                     }});
  }
  return cases;
}

}  // namespace dlbridge::bars
