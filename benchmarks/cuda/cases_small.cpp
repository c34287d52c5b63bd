// SPDX-License-Identifier: Apache-2.0
// Small copies to the host, where the calls are the cost: against one cudaMemcpyAsync on the
// producer's stream and waiting for that stream.
#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/cuda/staging.h"
#include "pattern.h"
#include "raw_cuda.h"
#include "session.h"

namespace dlbridge::bars {
namespace {

constexpr uint32_t kSeed = 37;

void small(Session& session, const std::vector<Bar>& bars, int64_t bytes) {
  const Shape shape = Shape::flat(bytes);
  const DeviceMemory memory(bytes);
  fill_device(memory.data(), bytes, kSeed);
  const DLDevice device{kDLCUDA, session.options().device};
  const TensorView source = shape.view(device, memory.data());
  cudaStream_t stream = session.stream();
  const Stream producer = cuda::stream_of(device.device_id, static_cast<void*>(stream));
  const Loan pinned = cuda::pinned_empty(source);

  const Contender ours{"stage_to_host", [&, looks = FirstThorough()]() mutable {
                         Loan result;
                         double seconds =
                             timed([&] { result = cuda::stage_to_host(source, producer); });
                         expect_content(result.view(), source, kSeed, looks.next());
                         spoil(result.view());
                         seconds += timed([&] { result.reset(); });
                         return seconds;
                       }};
  const Contender raw{
      "cudaMemcpyAsync + cudaStreamSynchronize", [&, looks = FirstThorough()]() mutable {
        const double seconds = timed([&] {
          must(cudaMemcpyAsync(pinned.view().data, memory.data(), static_cast<size_t>(bytes),
                               cudaMemcpyDeviceToHost, stream),
               "cudaMemcpyAsync");
          must(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
        });
        expect_content(pinned.view(), source, kSeed, looks.next());
        spoil(pinned.view());
        return seconds;
      }};
  const auto series = session.latency({ours, raw});
  session.cost(bars[0], series[0], series[1]);
}

}  // namespace

std::vector<Case> small_cases() {
  std::vector<Case> cases;
  for (const int64_t bytes : {int64_t{4}, int64_t{256}, 4 * kKiB, 16 * kKiB, 64 * kKiB}) {
    cases.push_back(
        {"d2h-small/" + size_name(bytes),
         {{"small d2h, " + size_name(bytes), "p50 of ours / raw", Sense::at_most, 1.05, {}}},
         [bytes](Session& session, const std::vector<Bar>& bars) { small(session, bars, bytes); }});
  }
  return cases;
}

}  // namespace dlbridge::bars
