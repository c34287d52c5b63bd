// SPDX-License-Identifier: Apache-2.0
// Device allocations: the stream order in which they are usable and freed.
#include "dlbridge/cuda/device_memory.h"

#include <chrono>
#include <vector>

#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

using cuda_sim::ReportKind;

constexpr int64_t kElements = 1000;

// A prototype; its memory is not used.
const Shaped kLike({kElements});

class DeviceMemory : public StagingTest {
 protected:
  void SetUp() override {
    // What is not ordered or waited for has not happened.
    start({.schedule = Schedule::lazy});
  }

  Loan empty_on(CUstream handle) { return cuda::device_empty(kLike.view(), on(handle)); }

  // A thread frees what was still in use when it was dropped.
  void expect_all_freed() {
    for (int i = 0; i < 10'000 && sim().async_bytes() > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(sim().async_bytes(), 0u);
  }

  static size_t bytes_of(const Loan& loan) { return static_cast<size_t>(loan.view().nbytes()); }
  void write(CUstream handle, const Loan& loan, uint32_t seed) {
    sim().enqueue_write(handle, loan.view().data, pattern(bytes_of(loan), seed));
  }
  std::shared_ptr<std::vector<uint8_t>> read(CUstream handle, const Loan& loan) {
    return sim().enqueue_read(handle, loan.view().data, bytes_of(loan));
  }
};

TEST_F(DeviceMemory, UsableInStreamOrder) {
  const CUstream user = stream();
  const Loan loan = empty_on(user);
  write(user, loan, 2);
  const auto seen = read(user, loan);
  EXPECT_TRUE(seen->empty()) << "the host does not wait";
  sim().synchronize(user);
  EXPECT_EQ(*seen, pattern(bytes_of(loan), 2));
}

TEST_F(DeviceMemory, NoSyncIsUsableAtOnce) {
  Loan loan = cuda::device_empty(kLike.view(), numbered(cuda::kNoSync));
  const CUstream any = stream();
  write(any, loan, 2);
  sim().synchronize(any);
  EXPECT_EQ(sim().read(loan.view().data, bytes_of(loan)), pattern(bytes_of(loan), 2));
}

TEST_F(DeviceMemory, CopiesShapeAndDtype) {
  const TestTensor& transposed = device({{20, 30}, {1, 20}, kInt8});
  const Loan same_order = cuda::device_empty(transposed.view(), on(stream()));
  EXPECT_EQ(same_order.view().shape[0], 20);
  EXPECT_EQ(same_order.view().strides[0], 1);
  EXPECT_EQ(same_order.view().strides[1], 20);
  EXPECT_EQ(DType(same_order.view().dtype), kInt8);
  EXPECT_EQ(bytes_of(same_order), 600u);
  const Loan of_managed = cuda::device_empty(managed({{10}}).view(), on(stream()));
  for (const Loan* each : {&same_order, &of_managed}) {
    EXPECT_EQ(Device(each->view().device), Device(DeviceType::cuda, 1));
    EXPECT_EQ(each->view().access, Access::writable);
    EXPECT_FALSE(each->view().is_copied);
    EXPECT_EQ(cuda::device_of_address(each->view().data), 1);
  }
}

TEST_F(DeviceMemory, OfNothingTakesNone) {
  const Loan loan = cuda::device_empty(Shaped({3, 0}).view(), on(stream()));
  EXPECT_TRUE(loan.view().is_empty());
  EXPECT_FALSE(loan.owns_memory());
  EXPECT_EQ(loan.view().data, nullptr);
  EXPECT_EQ(sim().calls("malloc_async"), 0u);
}

// ---- Freeing

TEST_F(DeviceMemory, FreedWhenItsStreamHasRun) {
  const CUstream user = stream();
  sim().hold_stream(user);
  Loan loan = empty_on(user);
  const void* const memory = loan.view().data;
  write(user, loan, 2);
  const auto seen = read(user, loan);
  loan.reset();
  EXPECT_GT(sim().async_bytes(), 0u);
  EXPECT_TRUE(seen->empty()) << "the host does not wait";
  sim().go_stream(user);
  expect_all_freed();
  expect_error(ErrorCode::invalid_device, [&] { cuda::device_of_address(memory); });
  EXPECT_EQ(*seen, pattern(kElements * 4, 2));
}

TEST_F(DeviceMemory, FreedAfterRecordedStreams) {
  const CUstream user = stream();
  const CUstream others[] = {stream(), stream()};
  Loan loan = empty_on(user);
  write(user, loan, 2);
  std::vector<std::shared_ptr<std::vector<uint8_t>>> seen;
  for (const CUstream other : others) {
    sim().order(user, other);
    EXPECT_TRUE(cuda::record_device_stream(loan.deleter(), on(other)));
    EXPECT_TRUE(cuda::record_device_stream(loan.deleter(), on(other))) << "once more does no harm";
    seen.push_back(read(other, loan));  // after record: what it has by the end counts
  }
  loan.reset();
  sim().finish();
  for (const auto& each : seen) EXPECT_EQ(*each, pattern(kElements * 4, 2));
}

TEST_F(DeviceMemory, UnrecordedReaderRaces) {
  const CUstream user = stream();
  const CUstream other = stream();
  Loan loan = empty_on(user);
  write(user, loan, 2);
  sim().order(user, other);
  static_cast<void>(read(other, loan));
  sim().hold_stream(other);
  loan.reset();
  expect_all_freed();
  sim().go_stream(other);
  EXPECT_EQ(sim().reports_of(ReportKind::freed_while_pending), 1u);
  EXPECT_EQ(sim().reports().size(), 1u);
  sim().clear_reports();
}

TEST_F(DeviceMemory, RecordsOwnMemoryOnly) {
  const CUstream user = stream();
  Loan foreign = device({{10}}).acquire();
  EXPECT_FALSE(cuda::record_device_stream(foreign.deleter(), on(user)));
  EXPECT_FALSE(cuda::record_device_stream(Deleter(), on(user)));
  Loan loan = empty_on(user);
  EXPECT_TRUE(cuda::record_device_stream(loan.deleter(), numbered(cuda::kNoSync)));
  EXPECT_TRUE(cuda::record_device_stream(loan.deleter(), on(user)));
  const uint64_t before = sim().calls("event_record");
  loan.reset();
  EXPECT_EQ(sim().calls("event_record") - before, 1u) << "one stream used it";
}

// The per-thread stream differs on the thread that frees.
TEST_F(DeviceMemory, PerThreadStreamFreesInOrder) {
  Loan loan;
  in_context(1, [&] {
    loan = cuda::device_empty(kLike.view(), numbered(cuda::kPerThreadStream));
    write(CU_STREAM_PER_THREAD, loan, 2);
    static_cast<void>(read(CU_STREAM_PER_THREAD, loan));
  });
  loan.reset();
  Loan recorded = empty_on(stream());
  in_context(1, [&] {
    sim().synchronize(CU_STREAM_PER_THREAD);
    sim().synchronize(CU_STREAM_LEGACY);
    cuda::record_device_stream(recorded.deleter(), numbered(cuda::kPerThreadStream));
  });
}

TEST_F(DeviceMemory, FreedOnAnyThread) {
  const CUstream user = stream();
  Loan loan = empty_on(user);
  write(user, loan, 2);
  in_context(-1, [&] {
    loan.reset();
    EXPECT_TRUE(sim().context_stack().empty());
  });
  in_context(0, [&] {
    empty_on(user).reset();
    EXPECT_EQ(sim().context_stack(), std::vector{0});
  });
  expect_all_freed();
}

TEST_F(DeviceMemory, ReuseDoesNotRace) {
  start({.schedule = Schedule::lazy, .reuse_addresses = true});
  const CUstream first = stream();
  const CUstream second = stream();
  for (uint32_t seed = 1; seed < 20; ++seed) {
    const CUstream user = seed % 2 == 0 ? first : second;
    const Loan loan = empty_on(user);
    write(user, loan, seed);
    const auto seen = read(user, loan);
    if (seed % 5 != 0) continue;
    sim().synchronize(user);
    EXPECT_EQ(*seen, pattern(bytes_of(loan), seed));
  }
}

// What it went back behind stands still; everybody else goes on.
TEST_F(DeviceMemory, SlowStreamDelaysNoOther) {
  start();
  const CUstream slow = stream();
  Loan loan = empty_on(slow);
  sim().hold_stream(slow);
  write(slow, loan, 2);
  loan.reset();
  TestTensor& x = device({{100'000}}, 3);
  const CUstream quick = stream();
  EXPECT_TRUE(cuda::stage_to_host_async(x.acquire(), on(quick)).wait(10))
      << "a copy_stream stands still";
  const Loan other = empty_on(quick);
  write(quick, other, 4);
  EXPECT_EQ(sim().read(other.view().data, bytes_of(other)), pattern(bytes_of(other), 4));
  EXPECT_GT(sim().pending_operations(), 0u);
  sim().go_stream(slow);
}

// No event can be recorded on a stream that is being captured.
TEST_F(DeviceMemory, FreedAfterCapture) {
  for (const bool legacy : {false, true}) {
    SCOPED_TRACE(legacy);
    const CUstream user = legacy ? CU_STREAM_LEGACY : stream();
    const CUstream captured = legacy ? sim().make_stream(CU_STREAM_DEFAULT, 1) : user;
    Loan loan = empty_on(user);
    write(user, loan, 2);
    const size_t held = sim().async_bytes();
    ASSERT_EQ(sim().begin_capture(captured), CUDA_SUCCESS);
    loan.reset();
    EXPECT_EQ(sim().captured_operations(), 0u);
    EXPECT_EQ(sim().async_bytes(), held) << "not yet";
    empty_on(stream()).reset();
    EXPECT_GE(sim().async_bytes(), held) << "not yet";
    EXPECT_EQ(sim().end_capture(captured), CUDA_SUCCESS) << "the capture was broken";
    empty_on(stream()).reset();
    expect_all_freed();
  }
}

// A stream may be destroyed before the tensors that it used. What CUDA answers about its handle is
// no reason to give the device up, and the handle may be another stream's by now.
TEST_F(DeviceMemory, FreedAfterDestroyedStream) {
  for (const bool used_again : {false, true}) {
    SCOPED_TRACE(used_again);
    const CUstream user = sim().make_stream(CU_STREAM_NON_BLOCKING, 1);
    const CUstream other = stream();
    Loan loan = empty_on(other);
    write(other, loan, 2);
    EXPECT_TRUE(cuda::record_device_stream(loan.deleter(), on(user)));
    sim().synchronize(other);
    sim().destroy_stream(user);
    if (used_again) {
      ASSERT_EQ(stream(), user);
    }
    loan.reset();
    expect_all_freed();
    TestTensor& x = device({{kElements}}, 3);
    EXPECT_EQ(elements(cuda::stage_to_host(x.view(), on(other))), elements_with(x, 3))
        << "the device is given up";
  }
}

TEST_F(DeviceMemory, OutlivesItsEngine) {
  expect_losses();
  Loan loan = empty_on(stream());
  start();
  const uint64_t calls = sim().total_calls();
  EXPECT_TRUE(cuda::record_device_stream(loan.deleter(), on(stream())));
  loan.reset();
  EXPECT_EQ(sim().total_calls(), calls);
}

// ---- What stands in the way

TEST_F(DeviceMemory, DeadDeviceLeaks) {
  expect_losses();
  Loan loan = empty_on(stream());
  sim().kill_device(1, CUDA_ERROR_ECC_UNCORRECTABLE);
  expect_error(ErrorCode::device_failed, [&] { static_cast<void>(empty_on(stream())); });
  const uint64_t calls = sim().total_calls();
  loan.reset();
  EXPECT_EQ(sim().total_calls(), calls) << "nothing is tried on it";
  const Loan elsewhere = cuda::device_empty(kLike.view(), numbered(cuda::kLegacyStream, 0));
  EXPECT_EQ(cuda::device_of_address(elsewhere.view().data), 0);
  EXPECT_GE(sim().reports_of(ReportKind::context_created), 1u);  // of device 0, on demand
  sim().clear_reports();
}

// The free kills the device.
TEST_F(DeviceMemory, FreeThatKillsTheDeviceLeaks) {
  for (const char* function : {"event_record", "stream_is_capturing", "free_async"}) {
    start();
    expect_losses();
    Loan loan = empty_on(stream());
    sim().fail({function, 1, CUDA_ERROR_ILLEGAL_ADDRESS, true});
    loan.reset();
    EXPECT_EQ(sim().faults_struck(), 1) << function;
    const auto next = error_of([&] { static_cast<void>(empty_on(stream())); });
    ASSERT_TRUE(next);
    EXPECT_NE(std::string(next->what()).find("failed earlier"), std::string::npos)
        << function << ": " << next->what();
  }
}

TEST_F(DeviceMemory, BeyondTheDevicesIsRefused) {
  start({.device_memory_bytes = 6000});
  const Loan fits = empty_on(stream());
  const auto error = error_of([&] { static_cast<void>(empty_on(stream())); });
  ASSERT_TRUE(error);
  EXPECT_EQ(name(error->code()), "out_of_memory");
  EXPECT_NE(std::string(error->what()).find("4000 bytes"), std::string::npos) << error->what();
  EXPECT_NE(std::string(error->what()).find("cuda:1"), std::string::npos) << error->what();
}

TEST_F(DeviceMemory, FailedCallFreesMemory) {
  const std::vector<std::string> functions = {
      "get_device_count",   "stream_create_with_flags",  "stream_wait_event",
      "stream_synchronize", "stream_is_capturing",       "stream_get_ctx",
      "event_record",       "event_create_with_flags",   "malloc_async",
      "ctx_push_current",   "device_primary_ctx_retain", "preload_kernels"};
  int struck = 0;
  for (const bool ordered : {true, false}) {
    for (const std::string& function : functions) {
      for (uint64_t nth = 1; nth <= 3; ++nth) {
        SCOPED_TRACE(function + " fails at call " + std::to_string(nth));
        start();
        const Stream user = ordered ? on(stream()) : numbered(cuda::kNoSync);
        sim().fail({function, nth, CUDA_ERROR_INVALID_VALUE});
        Loan made;
        const auto error = error_of([&] { made = cuda::device_empty(kLike.view(), user); });
        const bool failed = sim().faults_struck() > 0;
        sim().clear_faults();
        EXPECT_TRUE(!error || failed) << error->what();
        EXPECT_EQ(made.owns_memory(), !error);
        made.reset();
        expect_all_freed();
        struck += failed;
        const Loan next = cuda::device_empty(kLike.view(), user);
        EXPECT_NE(next.view().data, nullptr);
        if (HasFailure()) return;
      }
    }
  }
  EXPECT_GT(struck, 15);
}

// ---- Contexts

TEST_F(DeviceMemory, CreatesContext) {
  start({.active = {}});
  in_context(-1, [&] {
    const Loan loan = cuda::device_empty(kLike.view(), numbered(cuda::kLegacyStream));
    EXPECT_EQ(cuda::device_of_address(loan.view().data), 1);
    EXPECT_TRUE(sim().context_stack().empty());
  });
  EXPECT_TRUE(sim().context_active(1));
  EXPECT_FALSE(sim().context_active(0));
  EXPECT_EQ(sim().reports().size(), sim().reports_of(ReportKind::context_created));
  sim().clear_reports();
}

TEST_F(DeviceMemory, LeavesTheThreadsContextsAlone) {
  for (const std::vector<int>& stack : {std::vector<int>{}, {1}, {0}, {1, 0}, {0, 1}, {1, -1}}) {
    SCOPED_TRACE(testing::PrintToString(stack));
    start();
    std::thread([&] {
      for (const int index : stack)
        sim().api().ctx_push_current(index < 0 ? nullptr : sim().make_context(index));
      Loan loan = empty_on(stream());
      EXPECT_EQ(sim().context_stack(), stack);
      loan.reset();
      EXPECT_EQ(sim().context_stack(), stack);
      EXPECT_EQ(sim().capture_mode(), CU_STREAM_CAPTURE_MODE_GLOBAL);
    }).join();
  }
}

// ---- Questions about memory

TEST_F(DeviceMemory, AddressTellsDevice) {
  const TestTensor& x = device({{100}});
  const TestTensor& elsewhere = device({{100}}, 1, 0);
  const TestTensor& shared = managed({{100}});
  EXPECT_EQ(cuda::device_of_address(x.memory()), 1);
  EXPECT_EQ(cuda::device_of_address(x.memory() + 399), 1);
  EXPECT_EQ(cuda::device_of_address(elsewhere.memory()), 0);
  EXPECT_EQ(cuda::device_of_address(shared.memory()), 1);
  for (const TestTensor* each : {&host({{100}}), &foreign_pinned({{100}})}) {
    expect_error(ErrorCode::invalid_device, [&] { cuda::device_of_address(each->memory()); });
  }
}

TEST_F(DeviceMemory, DeviceTellsManagedSharing) {
  sim().set_attribute(CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 1, 0);
  sim().set_attribute(CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 0, 1);
  EXPECT_TRUE(cuda::shares_managed_memory(0));
  EXPECT_FALSE(cuda::shares_managed_memory(1));
  for (const int index : {-1, 2}) {
    expect_error(ErrorCode::invalid_device, [&] { cuda::shares_managed_memory(index); });
  }
  EXPECT_FALSE(sim().context_active(0)) << "a question makes no context";
}

TEST_F(DeviceMemory, PageLockedChecksAllBytes) {
  const TestTensor& like = host({{1000}});
  const TestTensor& pinned = foreign_pinned({{1000}});
  const Loan pooled = cuda::pinned_empty(like.view());
  EXPECT_TRUE(cuda::is_page_locked(pooled.view()));
  EXPECT_TRUE(cuda::is_page_locked(pinned.view()));
  EXPECT_FALSE(cuda::is_page_locked(like.view()));
  TensorView beyond = pinned.view();  // its last page is not pinned
  const int64_t more[] = {1000 + 4096};
  beyond.shape = more;
  EXPECT_FALSE(cuda::is_page_locked(beyond));
  EXPECT_FALSE(cuda::is_page_locked(host({{0}}).view()));
  TensorView mistaken = device({{100}}).view();
  mistaken.device = Device(DeviceType::cpu);
  expect_error(ErrorCode::invalid_device, [&] { cuda::is_page_locked(mistaken); });
}

}  // namespace
}  // namespace dlbridge::test
