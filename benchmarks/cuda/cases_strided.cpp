// SPDX-License-Identifier: Apache-2.0
// Arrays that are no single run of bytes: against a plain copy of as many bytes, or against the one
// call of CUDA that makes the same copy; and what they cost in device memory.
#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <thread>

#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/cuda/staging.h"
#include "pattern.h"
#include "raw_cuda.h"
#include "session.h"

namespace dlbridge::bars {
namespace {

constexpr uint32_t kSeed = 53;
constexpr DLDataType kHalf{kDLUInt, 16, 1};

// A source on the device inside `span` bytes of memory.
struct Strided {
  Strided(const Session& session, const Shape& its_shape, int64_t span)
      : shape(its_shape),
        memory(span),
        view(shape.view({kDLCUDA, session.options().device}, memory.data())),
        stream(session.stream()),
        producer(cuda::stream_of(session.options().device, static_cast<void*>(stream))) {
    fill_device(memory.data(), span, kSeed);
  }

  Shape shape;
  DeviceMemory memory;
  TensorView view;
  cudaStream_t stream;
  Stream producer;
};

Contender ours_of(const Strided& source, bool row_major) {
  return {row_major ? "stage_to_host, row-major" : "stage_to_host, the source's layout",
          [&source, row_major, looks = FirstThorough()]() mutable {
            Loan result;
            double seconds = timed([&] {
              result = cuda::stage_to_host(source.view, source.producer, {.row_major = row_major});
            });
            expect_content(result.view(), source.view, kSeed, looks.next());
            spoil(result.view());
            seconds += timed([&] { result.reset(); });
            return seconds;
          }};
}

// As many bytes in one run: what the bus allows.
Contender plain_copy(const Strided& source, const Loan& pinned) {
  return {"cudaMemcpyAsync of as many bytes", [&source, &pinned] {
            return timed([&] {
              must(cudaMemcpyAsync(pinned.view().data, source.view.data,
                                   static_cast<size_t>(source.view.nbytes()),
                                   cudaMemcpyDeviceToHost, source.stream),
                   "cudaMemcpyAsync");
              must(cudaStreamSynchronize(source.stream), "cudaStreamSynchronize");
            });
          }};
}

void against_plain(Session& session, const Bar& bar, const Shape& shape, int64_t span,
                   bool row_major) {
  const Strided source(session, shape, span);
  const Loan pinned = cuda::pinned_empty(source.view);
  const auto series = session.contest({ours_of(source, row_major), plain_copy(source, pinned)});
  session.speed(bar, series[0], series[1]);
}

void against_rows(Session& session, const Bar& bar, int64_t width) {
  const int64_t rows = 64 * kMiB / width;
  const Strided source(session, Shape({rows, width / 4}, {width / 2, 1}), 2 * rows * width);
  const Loan pinned = cuda::pinned_empty(source.view);
  const Contender raw{
      "cudaMemcpy2DAsync", [&, looks = FirstThorough()]() mutable {
        const double seconds = timed([&] {
          const auto bytes = static_cast<size_t>(width);
          must(cudaMemcpy2DAsync(pinned.view().data, bytes, source.view.data, 2 * bytes, bytes,
                                 static_cast<size_t>(rows), cudaMemcpyDeviceToHost, source.stream),
               "cudaMemcpy2DAsync");
          must(cudaStreamSynchronize(source.stream), "cudaStreamSynchronize");
        });
        expect_content(pinned.view(), source.view, kSeed, looks.next());
        spoil(pinned.view());
        return seconds;
      }};
  const auto series = session.contest({ours_of(source, false), raw});
  session.speed(bar, series[0], series[1]);
}

// The mirror: pinned row-major memory into a transposed target.
void to_transposed(Session& session, const Bar& bar, int64_t side) {
  const Shape dense({side, side});
  const Shape transposed({side, side}, {1, side});
  const int64_t bytes = dense.bytes();
  const DeviceMemory memory(bytes);
  const DLDevice device{kDLCUDA, session.options().device};
  const TensorView target = transposed.view(device, memory.data());
  const Stream consumer = cuda::stream_of(device.device_id, static_cast<void*>(session.stream()));
  const Loan pinned = cuda::pinned_empty(dense.view({kDLCPU, 0}, nullptr));
  fill_host(pinned.view().data, bytes, kSeed);
  const auto synchronize = [&] {
    must(cudaStreamSynchronize(session.stream()), "cudaStreamSynchronize");
  };
  const Contender ours{
      "stage, transposed", [&, looks = FirstThorough()]() mutable {
        must(cudaMemsetAsync(memory.data(), 0xee, static_cast<size_t>(bytes), session.stream()),
             "cudaMemsetAsync");
        synchronize();
        const double seconds = timed([&] {
          cuda::stage(pinned.view(), target, consumer);
          synchronize();
        });
        expect_device_content(target, pinned.view(), kSeed, looks.next());
        return seconds;
      }};
  const Contender raw{
      "cudaMemcpyAsync of as many bytes", [&] {
        return timed([&] {
          must(cudaMemcpyAsync(memory.data(), pinned.view().data, static_cast<size_t>(bytes),
                               cudaMemcpyHostToDevice, session.stream()),
               "cudaMemcpyAsync");
          synchronize();
        });
      }};
  const auto series = session.contest({ours, raw});
  session.speed(bar, series[0], series[1]);
}

size_t free_device_bytes() {
  size_t free = 0;
  size_t total = 0;
  must(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free;
}

// What the device's memory pool holds beyond what it held before: the peak since construction.
// cudaMemGetInfo is looked at as well, by a thread, for memory that does not come from the pool.
class PeakMemory {
 public:
  explicit PeakMemory(int device) {
    must(cudaDeviceGetDefaultMemPool(&pool_, device), "cudaDeviceGetDefaultMemPool");
    must(cudaMemPoolTrimTo(pool_, 0), "cudaMemPoolTrimTo");
    uint64_t zero = 0;
    must(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReservedMemHigh, &zero),
         "cudaMemPoolSetAttribute");
    before_ = reserved(cudaMemPoolAttrReservedMemCurrent);
    free_before_ = lowest_free_ = free_device_bytes();
    watcher_ = std::thread([this, device] {
      if (cudaSetDevice(device) != cudaSuccess) return;
      while (!ending_.load()) {
        size_t free = 0;
        size_t total = 0;
        if (cudaMemGetInfo(&free, &total) == cudaSuccess)
          lowest_free_ = std::min(lowest_free_, free);
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    });
  }
  ~PeakMemory() { stop(); }
  PeakMemory(const PeakMemory&) = delete;
  PeakMemory& operator=(const PeakMemory&) = delete;

  double mebibytes() {
    stop();
    const uint64_t pooled = reserved(cudaMemPoolAttrReservedMemHigh) - before_;
    const uint64_t missing = free_before_ - lowest_free_;
    return static_cast<double>(std::max(pooled, missing)) / static_cast<double>(kMiB);
  }

 private:
  uint64_t reserved(cudaMemPoolAttr which) const {
    uint64_t bytes = 0;
    must(cudaMemPoolGetAttribute(pool_, which, &bytes), "cudaMemPoolGetAttribute");
    return bytes;
  }
  void stop() {
    ending_.store(true);
    if (watcher_.joinable()) watcher_.join();
  }

  cudaMemPool_t pool_ = nullptr;
  uint64_t before_ = 0;
  size_t free_before_ = 0;
  size_t lowest_free_ = 0;
  std::atomic<bool> ending_ = false;
  std::thread watcher_;
};

void extra_memory(Session& session, const Bar& bar) {
  constexpr int64_t kColumns = 32768;
  const auto limit = static_cast<int64_t>(cuda::pinned_stats().limit);
  const auto room = std::min(static_cast<int64_t>(free_device_bytes() / 2), limit);
  const int64_t bytes = 8 * kGiB;
  if (bytes > room) {
    return session.skip(bar,
                        "8 GiB do not fit: half the free device memory and the pool's limit "
                        "allow " +
                            size_name(room));
  }
  const int64_t rows = bytes / 4 / kColumns;
  const Strided source(session, Shape({kColumns, rows}, {1, kColumns}), bytes);
  // Streams, events and kernels are there before memory is counted.
  const Shape small({1024, 1024}, {1, kColumns});
  cuda::stage_to_host(small.view(source.view.device, source.view.data), source.producer,
                      {.row_major = true})
      .reset();
  PeakMemory peak(session.options().device);
  const Loan result = cuda::stage_to_host(source.view, source.producer, {.row_major = true});
  const double extra = peak.mebibytes();
  expect_content(result.view(), source.view, kSeed, Look::thorough);
  session.figure(bar, {extra});
}

Case plain_case(std::string name, std::string what, double target, std::optional<double> goal,
                const Shape& shape, int64_t span, bool row_major) {
  return {
      std::move(name),
      {{std::move(what), "time of as many bytes in one run / ours", Sense::at_least, target, goal}},
      [=](Session& session, const std::vector<Bar>& bars) {
        against_plain(session, bars[0], shape, span, row_major);
      }};
}

}  // namespace

std::vector<Case> strided_cases() {
  constexpr int64_t kSide = 8192;
  constexpr int64_t kSpan = 256 * kMiB;  // 8192 x 8192 words
  const Shape transposed({kSide, kSide}, {1, kSide});
  std::vector<Case> cases{
      plain_case("transpose/same-layout", "d2h of a transpose, its own layout", 0.99, {},
                 transposed, kSpan, false),
      plain_case("transpose/C-order", "d2h of a transpose, C order", 0.93, 0.97, transposed, kSpan,
                 true),
      plain_case("transpose/C-order-16-bit", "d2h of a transpose of 16-bit elements, C order", 0.93,
                 0.97, Shape({kSide, 2 * kSide}, {1, kSide}, kHalf), kSpan, true),
      plain_case("transpose/C-order-3D", "d2h of a (2, 0, 1) permutation, C order", 0.93, 0.97,
                 Shape({256, 512, 512}, {1, 256 * 512, 256}), kSpan, true),
      plain_case("strided/every-other", "d2h of x[:, ::2], C order", 0.93, 0.97,
                 Shape({kSide, kSide}, {2 * kSide, 2}), 2 * kSpan, true),
  };
  cases.push_back({"transpose/to-device",
                   {{"h2d into a transpose, from pinned", "time of as many bytes in one run / ours",
                     Sense::at_least, 0.93, 0.97}},
                   [](Session& session, const std::vector<Bar>& bars) {
                     to_transposed(session, bars[0], kSide);
                   }});
  for (const int64_t width : {int64_t{64}, int64_t{512}, 4 * kKiB, 64 * kKiB}) {
    // Never below the best raw call: as far as two measurements of one call agree.
    cases.push_back({"strided/rows-" + size_name(width),
                     {{"d2h of rows of " + size_name(width),
                       "time of cudaMemcpy2DAsync / ours",
                       Sense::at_least,
                       0.97,
                       {}}},
                     [width](Session& session, const std::vector<Bar>& bars) {
                       against_rows(session, bars[0], width);
                     }});
  }
  cases.push_back(
      {"transpose/extra-memory",
       {{"device memory beside an 8 GiB transpose",
         "peak above the source",
         Sense::at_most,
         64,
         {},
         "MiB"}},
       [](Session& session, const std::vector<Bar>& bars) { extra_memory(session, bars[0]); }});
  return cases;
}

}  // namespace dlbridge::bars
