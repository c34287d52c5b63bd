// SPDX-License-Identifier: Apache-2.0
// StagingPath: one way through the staging functions, from tensors to bytes that were checked.
// Suites about something else (failures, captures, contexts, schedules) walk all of them.
//
// Thread: any; what a path uses belongs to it alone.
#pragma once

#include <mutex>
#include <optional>
#include <ostream>
#include <string>

#include "staging_fixture.h"

namespace dlbridge::test {

/// Of long series one in so many: ThreadSanitizer makes them thirty times as long.
#ifdef __SANITIZE_THREAD__
inline constexpr uint64_t kOneIn = 10;
#else
inline constexpr uint64_t kOneIn = 1;
#endif

enum class HostSide : uint8_t {
  fresh,           ///< the result is the module's own (to host only)
  pageable,        ///< out or source of the caller's
  spread,          ///< the same, every second element
  foreign_pinned,  ///< the same, registered by the test
};

struct StagingPath {
  std::string name;
  bool to_host;
  bool async;
  Layout layout;
  HostSide side;
  cuda::StageOptions options = {};
  int batch = 1;  ///< tensors in one call
  bool ordered = true;
  bool pool = true;  ///< false: the pool's limit allows nothing meanwhile

  friend std::ostream& operator<<(std::ostream& out, const StagingPath& path) {
    return out << path.name;
  }
};

inline std::vector<StagingPath> staging_paths() {
  const Layout small({9, 7});
  const Layout scalar(std::vector<int64_t>{});
  const Layout reordered({100, 800}, {1, 100});
  const Layout boxes({4, 8, 1100}, {16'000, 2000, 1});
  const Layout backwards({80'000}, std::vector<int64_t>{-1});
  const Layout bytes({400'001}, kInt8);
  const Layout small_strided({9, 7}, {1, 11});
  const Layout large({80'000});
  const Layout rows({12, 2048}, {4096, 1});
  const Layout strided({160, 500}, {1100, 2});
  const Layout little({35, 500}, {1100, 2});
  const Layout broadcast({50, 40, 30}, {30, 0, 1});
  using Side = HostSide;
  return {
      {"small", true, false, small, Side::fresh},
      {"one_element", true, false, scalar, Side::fresh},
      {"reordered", true, false, reordered, Side::fresh},
      {"boxes", true, false, boxes, Side::fresh},
      {"backwards", true, false, backwards, Side::fresh},
      {"bytes", true, false, bytes, Side::fresh},
      {"small_row_major", true, false, small_strided, Side::fresh, {.row_major = true}},
      {"small_to_out", true, false, small, Side::pageable},
      {"small_to_pinned", true, false, small, Side::foreign_pinned},
      {"large", true, false, large, Side::fresh},
      {"rows", true, false, rows, Side::fresh},
      {"strided", true, false, strided, Side::fresh},
      {"broadcast", true, false, broadcast, Side::fresh},
      {"large_to_out", true, false, large, Side::pageable},
      {"strided_to_out", true, false, strided, Side::pageable},
      {"small_to_spread", true, false, small, Side::spread},
      {"large_to_spread", true, false, large, Side::spread},
      {"strided_to_pinned", true, false, strided, Side::foreign_pinned},
      {"large_without_edges", true, false, large, Side::fresh, {}, 1, false},
      {"batch", true, false, little, Side::fresh, {}, 3},
      {"small_batch", true, false, small, Side::fresh, {}, 3},
      {"small_async", true, true, small, Side::fresh},
      {"large_async", true, true, large, Side::fresh},
      {"large_async_without_snapshot", true, true, large, Side::fresh, {.snapshot = false}},
      {"strided_async", true, true, strided, Side::fresh},
      {"broadcast_async", true, true, broadcast, Side::fresh},
      {"large_to_out_async", true, true, large, Side::pageable},
      {"strided_to_spread_async", true, true, strided, Side::spread},
      {"strided_to_pinned_async", true, true, strided, Side::foreign_pinned},
      {"gathered", true, false, small, Side::fresh, {}, 5},
      {"gathered_async", true, true, small, Side::fresh, {}, 5},
      {"batch_async", true, true, little, Side::fresh, {}, 3},
      {"batch_to_out", true, false, little, Side::pageable, {}, 3},
      {"batch_to_out_async", true, true, little, Side::pageable, {}, 3},
      {"small_sent", false, false, small, Side::pageable},
      {"large_sent", false, false, large, Side::pageable},
      {"strided_sent", false, false, strided, Side::pageable},
      {"rows_sent", false, false, rows, Side::pageable},
      {"boxes_sent", false, false, boxes, Side::foreign_pinned},
      {"large_sent_spread", false, false, large, Side::spread},
      {"large_sent_from_pinned", false, false, large, Side::foreign_pinned},
      {"strided_sent_from_pinned", false, false, strided, Side::foreign_pinned},
      {"large_sent_without_edges", false, false, large, Side::pageable, {}, 1, false},
      {"batch_sent", false, false, little, Side::pageable, {}, 3},
      {"batch_sent_async", false, true, little, Side::pageable, {}, 3},
      {"batch_sent_async_borrowed", false, true, little, Side::pageable, {.borrow = true}, 3},
      {"large_sent_async", false, true, large, Side::pageable},
      {"strided_sent_async", false, true, strided, Side::pageable},
      {"strided_sent_spread_async", false, true, strided, Side::spread},
      {"strided_sent_async_from_pinned", false, true, strided, Side::foreign_pinned},
      {"large_sent_async_borrowed", false, true, large, Side::pageable, {.borrow = true}},
      {"small_async_watched", true, true, small, Side::fresh, {.spin_seconds = 60}},
      {"small_to_out_async_watched", true, true, small, Side::pageable, {.spin_seconds = 60}},
      {"small_sent_async_watched", false, true, small, Side::pageable, {.spin_seconds = 60}},
      {"rows_unpinned", true, false, rows, Side::pageable, {}, 1, true, false},
      {"reordered_unpinned", true, true, reordered, Side::fresh, {}, 1, true, false},
      {"large_to_spread_unpinned", true, true, large, Side::spread, {}, 1, true, false},
      {"strided_to_spread_unpinned", true, false, little, Side::spread, {}, 1, true, false},
      {"large_to_pinned_unpinned", true, false, large, Side::foreign_pinned, {}, 1, true, false},
      {"rows_sent_unpinned", false, false, rows, Side::pageable, {}, 1, true, false},
      {"strided_sent_spread_unpinned", false, true, little, Side::spread, {}, 1, true, false},
      {"strided_sent_from_pinned_unpinned",
       false,
       true,
       little,
       Side::foreign_pinned,
       {},
       1,
       true,
       false},
      {"small_unpinned", true, false, small, Side::fresh, {}, 1, true, false},
      {"strided_to_out_unpinned", true, false, little, Side::pageable, {}, 1, true, false},
      {"broadcast_unpinned", true, false, broadcast, Side::fresh, {}, 1, true, false},
      {"large_to_out_async_unpinned", true, true, large, Side::pageable, {}, 1, true, false},
      {"batch_async_unpinned", true, true, little, Side::fresh, {}, 3, true, false},
      {"large_sent_unpinned", false, false, large, Side::pageable, {}, 1, true, false},
      {"batch_sent_unpinned", false, false, little, Side::pageable, {}, 3, true, false},
      {"strided_sent_async_unpinned", false, true, little, Side::pageable, {}, 1, true, false},
      {"large_sent_async_borrowed_unpinned",
       false,
       true,
       large,
       Side::pageable,
       {.borrow = true},
       1,
       true,
       false},
  };
}

/// What a walk does besides.
struct Walk {
  CUstream stream = nullptr;  ///< a new one where null
  bool kernels = true;        ///< work of the caller before and after, on that stream
  std::function<void()> before_call;
  uint32_t seed = 2;
  bool dies = false;  ///< the device may fail: its further work is unknown
};

/// While one lives, the pool's limit allows nothing. Several may, on several threads.
class PoolClosed {
 public:
  /// `count` is that of all that live.
  explicit PoolClosed(int& count) : count_(count) {
    const std::lock_guard lock(mutex_);
    if (count_++ == 0) {
      before_ = cuda::pinned_stats().limit;
      cuda::set_pinned_limit(0);
    }
  }
  PoolClosed(const PoolClosed&) = delete;
  PoolClosed& operator=(const PoolClosed&) = delete;
  ~PoolClosed() {
    const std::lock_guard lock(mutex_);
    // Where the device has died meanwhile the limit stays as it is.
    if (--count_ == 0) static_cast<void>(error_of([] { cuda::set_pinned_limit(before_); }));
  }

 private:
  static inline std::mutex mutex_;
  static inline size_t before_ = 0;
  int& count_;
};

/// A test that walks paths.
class StagingPathTest : public StagingTest {
 protected:
  /// Walks `path` and checks what arrived. The Error that the call threw or the Future told, if
  /// any, after checking that then nothing runs any more and nothing was taken over.
  std::optional<Error> walk(const StagingPath& path, const Walk& how = {}) {
    Tensors used;
    {
      const std::lock_guard lock(making_);
      used.stream = how.stream != nullptr ? how.stream : stream();
      const Layout dense(path.layout.shape, path.layout.dtype);
      Layout spread = dense;
      for (int64_t& stride : spread.strides) stride *= 2;
      spread = {spread.shape, spread.strides, spread.dtype};
      for (int i = 0; i < path.batch; ++i) {
        used.on_device.push_back(&device(path.layout, how.seed));
        if (path.side == HostSide::pageable || path.side == HostSide::spread) {
          const bool is_dense = path.side == HostSide::pageable;
          used.on_host.push_back(&host(is_dense ? dense : spread, how.seed + 1));
        }
        if (path.side == HostSide::foreign_pinned)
          used.on_host.push_back(&foreign_pinned(dense, how.seed + 1));
      }
    }
    if (path.to_host && how.kernels && path.ordered) {
      for (TestTensor* each : used.on_device) produce(used.stream, *each, how.seed + 10);
      used.seed = how.seed + 10;
    } else {
      used.seed = path.to_host ? how.seed : how.seed + 1;
    }
    if (!path.to_host && how.kernels && path.ordered) {
      for (TestTensor* each : used.on_device) consume(used.stream, *each);
    }
    std::optional<PoolClosed> closed;
    if (!path.pool) closed.emplace(closed_);
    if (how.before_call) how.before_call();
    const std::optional<Error> error =
        path.to_host ? bring(path, used, how) : send(path, used, how);
    if (error && !how.dies) expect_at_rest(used);
    return error;
  }

  Stream outer(const StagingPath& path, CUstream handle) const {
    return path.ordered ? on(handle) : numbered(cuda::kNoSync);
  }

 private:
  struct Tensors {
    CUstream stream = nullptr;
    std::vector<TestTensor*> on_device;
    std::vector<TestTensor*> on_host;
    uint32_t seed = 0;  // of what is to arrive
  };

  static std::vector<TensorView> views(const std::vector<TestTensor*>& tensors) {
    std::vector<TensorView> all;
    for (const TestTensor* each : tensors) all.push_back(each->view());
    return all;
  }

  static void expect_the_callers(const std::vector<TestTensor*>& tensors) {
    for (const TestTensor* each : tensors) EXPECT_EQ(each->releases(), 0) << "taken over";
  }

  // Nothing of ours touches any of it: otherwise the simulator complains.
  void expect_at_rest(const Tensors& used) {
    for (TestTensor* each : used.on_host) sim().host_wrote(each->memory(), each->span());
    sim().synchronize(used.stream);
    for (TestTensor* each : used.on_device) {
      each->freed = true;
      sim().device_free(each->memory());
    }
  }

  std::optional<Error> bring(const StagingPath& path, const Tensors& used, const Walk& how) {
    const Stream producer = outer(path, used.stream);
    std::vector<Loan> loans;
    std::vector<Loan> results;
    cuda::Future future;
    const bool fresh = path.side == HostSide::fresh;
    if (path.async) {
      for (TestTensor* each : used.on_device) loans.push_back(each->acquire());
    }
    std::vector<Loan> outs;
    if (path.async && !fresh) {
      for (TestTensor* each : used.on_host) outs.push_back(each->acquire());
    }
    const auto start = [&] {
      if (!path.async && !fresh) {
        cuda::stage(views(used.on_device), views(used.on_host), producer);
      } else if (!path.async) {
        results = cuda::stage_to_host(views(used.on_device), producer, path.options);
      } else if (fresh) {
        future = cuda::stage_to_host_async(loans, producer, path.options);
      } else {
        future = cuda::stage_async(loans, outs, producer, path.options);
      }
    };
    if (const std::optional<Error> error = error_of(start)) {
      for (const Loan& loan : loans) EXPECT_TRUE(loan.owns_memory());
      for (const Loan& out : outs) EXPECT_TRUE(out.owns_memory() || how.dies);
      expect_the_callers(used.on_device);
      expect_the_callers(used.on_host);
      return error;
    }
    if (how.kernels && path.ordered && path.options.snapshot) {
      for (TestTensor* each : used.on_device) produce(used.stream, *each, used.seed + 1);
    }
    if (future) {
      const auto fetch = [&] {
        for (size_t i = 0; i < future.size(); ++i) results.push_back(future.result(i));
      };
      const std::optional<Error> error = error_of(fetch);
      if (!error || !how.dies) {
        for (const TestTensor* each : used.on_device) EXPECT_EQ(each->releases(), 1);
      }
      if (error) return error;
    }
    for (size_t i = 0; i < used.on_device.size(); ++i) {
      const TestTensor& source = *used.on_device[i];
      const std::vector<uint8_t> expected = elements_with(source, used.seed);
      if (fresh || path.async) {
        EXPECT_TRUE(elements(results[i]) == expected) << "wrong bytes in result " << i;
      }
      if (!fresh) {
        EXPECT_TRUE(elements(*used.on_host[i]) == expected) << "wrong bytes in out";
      }
    }
    return std::nullopt;
  }

  std::optional<Error> send(const StagingPath& path, const Tensors& used, const Walk& how) {
    const Stream consumer = outer(path, used.stream);
    cuda::Future future;
    std::vector<Loan> sources;
    std::vector<Loan> targets;
    if (path.async) {
      for (TestTensor* each : used.on_host) sources.push_back(each->acquire());
      for (TestTensor* each : used.on_device) targets.push_back(each->acquire());
    }
    const auto start = [&] {
      if (path.async)
        future = cuda::stage_async(sources, targets, consumer, path.options);
      else
        cuda::stage(views(used.on_host), views(used.on_device), consumer);
    };
    if (const std::optional<Error> error = error_of(start)) {
      for (const Loan& source : sources) EXPECT_TRUE(source.owns_memory());
      for (const Loan& target : targets) EXPECT_TRUE(target.owns_memory() || how.dies);
      expect_the_callers(used.on_device);
      expect_the_callers(used.on_host);
      return error;
    }
    const bool own_order = path.ordered && !path.options.borrow;
    std::vector<std::shared_ptr<std::vector<uint8_t>>> seen;
    if (how.kernels && own_order) {
      for (const TestTensor* each : used.on_device) seen.push_back(consume(used.stream, *each));
    }
    std::vector<std::vector<uint8_t>> expected;
    for (const TestTensor* each : used.on_host) expected.push_back(elements_with(*each, used.seed));
    if (path.side != HostSide::foreign_pinned && !path.options.borrow) {
      for (TestTensor* each : used.on_host) fill(*each, 99);  // it has been read
    }
    if (future) {
      const std::optional<Error> error = error_of([&] { static_cast<void>(future.result()); });
      if (!error || !how.dies) {
        for (const TestTensor* each : used.on_host) EXPECT_EQ(each->releases(), 1);
      }
      if (error) return error;
    }
    sim().synchronize(used.stream);
    for (size_t i = 0; i < used.on_device.size(); ++i) {
      EXPECT_TRUE(elements(*used.on_device[i]) == expected[i]) << "wrong bytes in target " << i;
      if (seen.empty()) continue;
      EXPECT_TRUE(used.on_device[i]->layout().gather(seen[i]->data()) == expected[i])
          << "the consumer saw something else in target " << i;
    }
    return std::nullopt;
  }

  std::mutex making_;  // of tensors, by several threads
  int closed_ = 0;     // walks without the pool
};

}  // namespace dlbridge::test
