// SPDX-License-Identifier: Apache-2.0
// Asynchronous staging: what it costs the caller to start one, and both directions at once.
#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/cuda/staging.h"
#include "pattern.h"
#include "raw_cuda.h"
#include "session.h"

namespace dlbridge::bars {
namespace {

constexpr uint32_t kSeed = 89;

// The calls without which a copy on another stream is neither behind its producer nor before what
// the producer does next.
class RawSubmit {
 public:
  void operator()(void* to, const TensorView& source, cudaStream_t producer) {
    must(cudaEventRecord(ready_, producer), "cudaEventRecord");
    must(cudaStreamWaitEvent(lane_, ready_, 0), "cudaStreamWaitEvent");
    must(cudaMemcpyAsync(to, source.data, static_cast<size_t>(source.nbytes()),
                         cudaMemcpyDeviceToHost, lane_),
         "cudaMemcpyAsync");
    must(cudaEventRecord(done_, lane_), "cudaEventRecord");
    must(cudaStreamWaitEvent(producer, done_, 0), "cudaStreamWaitEvent");
  }
  void wait() { must(cudaStreamSynchronize(lane_), "cudaStreamSynchronize"); }

 private:
  RawStream lane_;
  RawEvent ready_;
  RawEvent done_;
};

void submit(Session& session, const Bar& bar, int64_t bytes) {
  const Shape shape = Shape::flat(bytes);
  const DeviceMemory memory(bytes);
  fill_device(memory.data(), bytes, kSeed);
  const DLDevice device{kDLCUDA, session.options().device};
  const TensorView source = shape.view(device, memory.data());
  const Stream producer = cuda::stream_of(device.device_id, static_cast<void*>(session.stream()));
  const Loan pinned = cuda::pinned_empty(source);
  const Contender ours{"stage_to_host_async", [&, looks = FirstThorough()]() mutable {
                         cuda::Future future;
                         const double seconds = timed([&] {
                           future = cuda::stage_to_host_async(acquire(source), producer);
                         });
                         const Loan result = future.result();
                         expect_content(result.view(), source, kSeed, looks.next());
                         spoil(result.view());
                         return seconds;
                       }};
  RawSubmit raw_submit;
  const Contender raw{"record, wait, copy, record, wait", [&, looks = FirstThorough()]() mutable {
                        const double seconds = timed(
                            [&] { raw_submit(pinned.view().data, source, session.stream()); });
                        raw_submit.wait();
                        expect_content(pinned.view(), source, kSeed, looks.next());
                        spoil(pinned.view());
                        return seconds;
                      }};
  const auto series = session.latency({ours, raw});
  session.cost(bar, series[0], series[1]);
}

void duplex(Session& session, const Bar& bar, int64_t bytes) {
  const Shape shape = Shape::flat(bytes);
  const DeviceMemory outgoing(bytes);
  const DeviceMemory incoming(bytes);
  fill_device(outgoing.data(), bytes, kSeed);
  const DLDevice device{kDLCUDA, session.options().device};
  const TensorView from_device = shape.view(device, outgoing.data());
  const TensorView to_device = shape.view(device, incoming.data());
  const Loan sent = cuda::pinned_empty(from_device);
  const Loan received = cuda::pinned_empty(from_device);
  fill_host(sent.view().data, bytes, kSeed + 1);
  const RawStream down;
  const RawStream up;
  const auto stream_of = [&](cudaStream_t stream) {
    return cuda::stream_of(device.device_id, static_cast<void*>(stream));
  };
  const auto spoil_target = [&] {
    must(cudaMemset(incoming.data(), 0xee, static_cast<size_t>(bytes)), "cudaMemset");
    must(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  };
  const auto expect = [&](const TensorView& got, Look look) {
    expect_content(got, from_device, kSeed, look);
    expect_device_content(to_device, sent.view(), kSeed + 1, look);
    spoil(got);
  };
  const Contender ours{
      "stage_to_host_async and stage_async", [&, looks = FirstThorough()]() mutable {
        spoil_target();
        const Stopwatch watch;
        const auto there = cuda::stage_to_host_async(acquire(from_device), stream_of(down));
        const auto back =
            cuda::stage_async(acquire(sent.view()), acquire(to_device), stream_of(up));
        there.wait();
        back.wait();
        const double seconds = watch.seconds();
        const Loan result = there.result();
        static_cast<void>(back.result());
        expect(result.view(), looks.next());
        return seconds;
      }};
  const Contender raw{
      "cudaMemcpyAsync on two streams", [&, looks = FirstThorough()]() mutable {
        spoil_target();
        const double seconds = timed([&] {
          const auto size = static_cast<size_t>(bytes);
          must(cudaMemcpyAsync(received.view().data, outgoing.data(), size, cudaMemcpyDeviceToHost,
                               down),
               "cudaMemcpyAsync");
          must(cudaMemcpyAsync(incoming.data(), sent.view().data, size, cudaMemcpyHostToDevice, up),
               "cudaMemcpyAsync");
          must(cudaStreamSynchronize(down), "cudaStreamSynchronize");
          must(cudaStreamSynchronize(up), "cudaStreamSynchronize");
        });
        expect(received.view(), looks.next());
        return seconds;
      }};
  const auto series = session.contest({ours, raw});
  session.speed(bar, series[0], series[1]);
}

}  // namespace

std::vector<Case> async_cases() {
  return {{"async/submit",
           {{"starting an asynchronous d2h of 1 MiB",
             "p50 of ours / the same raw calls",
             Sense::at_most,
             1.2,
             {}}},
           [](Session& session, const std::vector<Bar>& bars) { submit(session, bars[0], kMiB); }},
          {"async/duplex",
           {{"256 MiB each way at once", "time of raw / ours", Sense::at_least, 0.97, {}}},
           [](Session& session, const std::vector<Bar>& bars) {
             duplex(session, bars[0], 256 * kMiB);
           }}};
}

}  // namespace dlbridge::bars
