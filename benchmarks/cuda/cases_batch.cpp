// SPDX-License-Identifier: Apache-2.0
// Many tensors at once: against a loop of raw copies, each waited for, and against the bus.
#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/cuda/staging.h"
#include "pattern.h"
#include "raw_cuda.h"
#include "session.h"

namespace dlbridge::bars {
namespace {

constexpr uint32_t kSeed = 71;

// `count` tensors of `bytes` each, with a gap between them, so that they are not one copy.
struct Batch {
  Batch(const Session& session, int64_t its_count, int64_t its_bytes)
      : count(its_count),
        bytes(its_bytes),
        shape(Shape::flat(bytes)),
        all(Shape::flat(bytes * count)),
        memory(2 * bytes * count),
        device{kDLCUDA, session.options().device},
        pinned(cuda::pinned_empty(all.view({kDLCPU, 0}, nullptr))),
        stream(session.stream()),
        producer(cuda::stream_of(device.device_id, static_cast<void*>(stream))) {
    for (int64_t i = 0; i < count; ++i) {
      auto* begin = static_cast<std::byte*>(memory.data()) + 2 * bytes * i;
      fill_device(begin, bytes, kSeed + static_cast<uint32_t>(i));
      views.push_back(shape.view(device, begin));
    }
  }

  void* slot(int64_t i) const { return static_cast<std::byte*>(pinned.view().data) + bytes * i; }
  void enqueue(int64_t i) const {
    must(cudaMemcpyAsync(slot(i), views[static_cast<size_t>(i)].data, static_cast<size_t>(bytes),
                         cudaMemcpyDeviceToHost, stream),
         "cudaMemcpyAsync");
  }
  void synchronize() const { must(cudaStreamSynchronize(stream), "cudaStreamSynchronize"); }
  void expect(const TensorView& got, int64_t i, Look look) const {
    expect_content(got, views[static_cast<size_t>(i)], kSeed + static_cast<uint32_t>(i), look);
    spoil(got);
  }

  int64_t count;
  int64_t bytes;
  Shape shape;
  Shape all;
  DeviceMemory memory;
  DLDevice device;
  Loan pinned;
  cudaStream_t stream;
  Stream producer;
  std::vector<TensorView> views;
};

Contender ours_of(const Batch& batch) {
  return {"stage_to_host of all", [&batch, looks = FirstThorough()]() mutable {
            std::vector<Loan> results;
            double seconds =
                timed([&] { results = cuda::stage_to_host(batch.views, batch.producer); });
            const Look look = looks.next();
            for (int64_t i = 0; i < batch.count; ++i)
              batch.expect(results[static_cast<size_t>(i)].view(), i, look);
            seconds += timed([&] { results.clear(); });
            return seconds;
          }};
}

// What `copies` makes ends in the slots.
template <typename Copies>
Contender raw_of(const Batch& batch, std::string name, Copies copies) {
  return {std::move(name), [&batch, copies, looks = FirstThorough()]() mutable {
            const double seconds = timed([&] { copies(batch); });
            const Look look = looks.next();
            for (int64_t i = 0; i < batch.count; ++i)
              batch.expect(batch.shape.view({kDLCPU, 0}, batch.slot(i)), i, look);
            return seconds;
          }};
}

Contender loop_of(const Batch& batch) {
  return raw_of(batch, "cudaMemcpyAsync + cudaStreamSynchronize, each", [](const Batch& all) {
    for (int64_t i = 0; i < all.count; ++i) {
      all.enqueue(i);
      all.synchronize();
    }
  });
}

Contender queue_of(const Batch& batch) {
  return raw_of(batch, "cudaMemcpyAsync each, one wait", [](const Batch& all) {
    for (int64_t i = 0; i < all.count; ++i) all.enqueue(i);
    all.synchronize();
  });
}

void against_loop(Session& session, const std::vector<Bar>& bars, int64_t count, int64_t bytes) {
  const Batch batch(session, count, bytes);
  const auto series = session.contest({ours_of(batch), loop_of(batch), queue_of(batch)});
  session.speed(bars[0], series[0], series[1]);
  session.speed(bars[1], series[0], series[2]);
}

void against_bus(Session& session, const Bar& bar, int64_t count, int64_t bytes) {
  const Batch batch(session, count, bytes);
  const Contender bus{"cudaMemcpyAsync of as many bytes", [&] {
                        return timed([&] {
                          must(cudaMemcpyAsync(batch.slot(0), batch.memory.data(),
                                               static_cast<size_t>(count * bytes),
                                               cudaMemcpyDeviceToHost, batch.stream),
                               "cudaMemcpyAsync");
                          batch.synchronize();
                        });
                      }};
  const auto series = session.contest({ours_of(batch), bus});
  session.speed(bar, series[0], series[1]);
}

Case loop_case(int64_t count, int64_t bytes, double target) {
  const std::string what = std::to_string(count) + " x " + size_name(bytes);
  return {
      "batch/" + what,
      {{"batch d2h, " + what, "time of a loop of raw copies / ours", Sense::at_least, target, {}},
       {"batch d2h, " + what + ", beside raw copies with one wait",
        "time of raw copies with one wait / ours",
        Sense::at_least,
        {},
        {}}},
      [=](Session& session, const std::vector<Bar>& bars) {
        against_loop(session, bars, count, bytes);
      }};
}

}  // namespace

std::vector<Case> batch_cases() {
  std::vector<Case> cases;
  for (const int64_t bytes : {int64_t{256}, 4 * kKiB, 64 * kKiB})
    cases.push_back(loop_case(16, bytes, 5));
  cases.push_back(loop_case(4096, 256, 30));
  cases.push_back({"batch/bus",
                   {{"batch d2h, 1024 x 64 KiB, beside the bus",
                     "time of as many bytes in one run / ours",
                     Sense::at_least,
                     0.85,
                     {}}},
                   [](Session& session, const std::vector<Bar>& bars) {
                     against_bus(session, bars[0], 1024, 64 * kKiB);
                   }});
  return cases;
}

}  // namespace dlbridge::bars
