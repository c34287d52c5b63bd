// SPDX-License-Identifier: Apache-2.0
// The C ABI of the CUDA module on the simulator: what each function answers, who owns what after
// success and after failure, and that it is the C++ functions that do the work. That these order
// and copy rightly is tested beside this file.
#include "dlbridge/cuda/c_api.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "c_calls.h"
#include "dlbridge/managed_tensor.h"
#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

constexpr intptr_t kLegacy = DLBRIDGE_CUDA_LEGACY_STREAM;

// Holds one share and releases it.
struct Handle {
  Handle() = default;
  explicit Handle(Loan&& loan) {
    DLManagedTensorVersioned* managed = to_managed(std::move(loan));
    EXPECT_OK(dlb_adopt(managed, &tensor));
  }
  Handle(Handle&& other) noexcept : tensor(std::exchange(other.tensor, nullptr)) {}
  Handle& operator=(Handle&&) = delete;
  ~Handle() { release(); }

  void release() { dlb_tensor_release(std::exchange(tensor, nullptr)); }
  const DLManagedTensorVersioned* borrowed() const {
    const DLManagedTensorVersioned* managed = nullptr;
    EXPECT_OK(dlb_tensor_borrow(tensor, &managed));
    return managed;
  }

  dlb_tensor* tensor = nullptr;
};

struct FutureHandle {
  FutureHandle() = default;
  FutureHandle(const FutureHandle&) = delete;
  FutureHandle& operator=(const FutureHandle&) = delete;
  ~FutureHandle() { dlb_future_drop(future); }
  bool done() const {
    int32_t answer = -1;
    EXPECT_OK(dlb_future_done(future, &answer));
    return answer == 1;
  }
  bool wait(double seconds) const {
    int32_t answer = -1;
    EXPECT_OK(dlb_future_wait(future, seconds, &answer));
    return answer == 1;
  }
  size_t count() const {
    size_t found = 99;
    EXPECT_OK(dlb_future_count(future, &found));
    return found;
  }
  Handle result(size_t index = 0) const {
    Handle handle;
    EXPECT_OK(dlb_future_result(future, index, &handle.tensor));
    return handle;
  }
  dlb_future* future = nullptr;
};

bool drain(double seconds) {
  int32_t drained = -1;
  EXPECT_OK(dlb_cuda_drain(seconds, &drained));
  return drained == 1;
}

dlb_cuda_options flags(uint32_t bits) {
  auto options = sized<dlb_cuda_options>();
  options.flags = bits;
  return options;
}

class CApiCuda : public StagingTest {
 protected:
  std::vector<uint8_t> elements_of(const Handle& handle) {
    Loan loan;
    describe_managed(handle.borrowed(), loan);
    return elements(loan.view());
  }

  // A tensor as a handle, and as a descriptor over memory of the test.
  static Handle handle(TestTensor& tensor) { return Handle(tensor.acquire()); }
  static const DLManagedTensorVersioned* borrow(ManagedTensor& kept, TestTensor& tensor) {
    kept = ManagedTensor(tensor.acquire());
    return kept.get();
  }

  static dlb_pinned_stats stats() {
    auto found = sized<dlb_pinned_stats>();
    EXPECT_OK(dlb_cuda_pinned_stats(&found));
    return found;
  }
};

// ---- The machine

TEST_F(CApiCuda, ReportsAvailability) {
  start();
  auto info = sized<dlb_cuda_info>();
  char text[8] = "?";
  info.message = text;
  info.message_capacity = sizeof text;
  ASSERT_OK(dlb_cuda_availability(&info));
  EXPECT_EQ(info.usable, 1);
  EXPECT_EQ(info.device_count, 2);
  EXPECT_STREQ(info.reason, "");
  EXPECT_STREQ(text, "");
  EXPECT_EQ(info.message_length, 0u);
  EXPECT_GE(info.driver_version, info.runtime_version);
  EXPECT_GT(info.runtime_version, 0);
}

TEST_F(CApiCuda, MissingDriverIsReported) {
  start({.driver = cuda_sim::Driver::absent});
  auto info = sized<dlb_cuda_info>();
  char text[16];
  info.message = text;
  info.message_capacity = sizeof text;
  ASSERT_OK(dlb_cuda_availability(&info));
  EXPECT_EQ(info.usable, 0);
  EXPECT_EQ(info.device_count, 0);
  EXPECT_STREQ(info.reason, "no_driver");
  EXPECT_EQ(std::strlen(text), 15u);  // cut to what fits
  EXPECT_GT(info.message_length, 15u);

  auto found = sized<dlb_pinned_stats>();
  expect_failure(dlb_cuda_pinned_stats(&found), DLBRIDGE_UNAVAILABLE, "no_driver", "device");
  const int64_t shape[] = {4};
  auto* made = poison<dlb_tensor>();
  expect_failure(dlb_cuda_pinned_empty(DLDataType(kFloat32), 1, shape, &made), DLBRIDGE_UNAVAILABLE,
                 "no_driver", "device");
  EXPECT_EQ(made, nullptr);
  EXPECT_OK(dlb_cuda_register_staging());
  EXPECT_TRUE(drain(0));
}

TEST_F(CApiCuda, ForkedChildIsRefused) {
  TestTensor& x = device(Layout({8}));
  ManagedTensor kept;
  const DLManagedTensorVersioned* source = borrow(kept, x);
  Handle first;
  ASSERT_OK(dlb_cuda_stage_to_host(&source, 1, kLegacy, nullptr, &first.tensor));
  cuda_sim::wait_for_other_threads();
  const pid_t child = fork();
  if (child == 0) {
    dlb_tensor* result = nullptr;
    const bool refused =
        dlb_cuda_stage_to_host(&source, 1, kLegacy, nullptr, &result) == DLBRIDGE_DEVICE_FAILED &&
        result == nullptr && std::strcmp(last_error().code, "after_fork") == 0;
    _exit(refused ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(CApiCuda, RegistersStaging) {
  TestTensor& x = device(Layout({3, 50}));
  TestTensor& out = host(Layout({3, 50}, {1, 3}), 9);
  ASSERT_OK(dlb_cuda_register_staging());
  ASSERT_OK(dlb_cuda_register_staging());
  ManagedTensor source;
  ManagedTensor destination;
  ASSERT_OK(dlb_stage(borrow(source, x), borrow(destination, out), kLegacy));
  EXPECT_EQ(elements(out), elements_with(x, 1));
  fill(out, 3);
  ASSERT_OK(dlb_stage(destination.get(), source.get(), DLBRIDGE_CUDA_NO_SYNC));
  EXPECT_EQ(elements(x), elements_with(out, 3));
  auto request = sized<dlb_request>();
  request.named = DLBRIDGE_NAMED_DEVICE;
  request.device = {kDLCPU, 0};
  auto plan = sized<dlb_plan_result>();
  ASSERT_OK(dlb_plan(source.get(), nullptr, &request, &plan));
  EXPECT_EQ(plan.verdict, DLBRIDGE_STAGE);
  EXPECT_EQ(plan.bytes, 600);
}

// ---- Synchronous

TEST_F(CApiCuda, StageToHostMakesHandle) {
  TestTensor& x = device(Layout({4, 6}, {1, 4}));
  const CUstream producer = stream();
  produce(producer, x, 2);
  ManagedTensor kept;
  const DLManagedTensorVersioned* source = borrow(kept, x);
  Handle kept_order;
  Handle row_major;
  const auto options = flags(DLBRIDGE_CUDA_ROW_MAJOR);
  const auto handle_of_stream = reinterpret_cast<intptr_t>(producer);
  ASSERT_OK(dlb_cuda_stage_to_host(&source, 1, handle_of_stream, nullptr, &kept_order.tensor));
  ASSERT_OK(dlb_cuda_stage_to_host(&source, 1, handle_of_stream, &options, &row_major.tensor));
  EXPECT_EQ(elements_of(kept_order), elements_with(x, 2));
  EXPECT_EQ(elements_of(row_major), elements_with(x, 2));
  const DLManagedTensorVersioned* shown = kept_order.borrowed();
  EXPECT_EQ(shown->dl_tensor.device.device_type, kDLCPU);
  EXPECT_EQ(shown->dl_tensor.strides[0], 1);
  EXPECT_EQ(shown->flags, kIsCopied);
  EXPECT_EQ(row_major.borrowed()->dl_tensor.strides[0], 6);
  EXPECT_GT(stats().owned, 0u);
  kept_order.release();
  row_major.release();
  const dlb_pinned_stats after = stats();
  EXPECT_EQ(after.owned, 0u);
  EXPECT_GT(after.registered, 0u);
  EXPECT_EQ(after.quarantined + after.free, after.registered);
}

TEST_F(CApiCuda, StagesIntoGivenMemory) {
  start({.schedule = Schedule::lazy});
  ManagedTensor kept[3];
  TestTensor& x = device(Layout({100, 30}));
  TestTensor& out = host(Layout({100, 30}, {1, 100}), 9);
  TestTensor& target = device(Layout({100, 30}), 4);
  const DLManagedTensorVersioned* source = borrow(kept[0], x);
  const DLManagedTensorVersioned* destination = borrow(kept[1], out);
  const DLManagedTensorVersioned* to = borrow(kept[2], target);
  ASSERT_OK(dlb_cuda_stage(&source, &destination, 1, kLegacy));
  EXPECT_EQ(elements(out), elements_with(x, 1));
  const CUstream consumer = stream();
  ASSERT_OK(dlb_cuda_stage(&destination, &to, 1, reinterpret_cast<intptr_t>(consumer)));
  const auto seen = consume(consumer, target);
  sim().synchronize(consumer);
  EXPECT_EQ(*seen, elements(out));
}

TEST_F(CApiCuda, ManyGoInOneOperation) {
  TestTensor& first = device(Layout({40}), 1);
  TestTensor& none = device(Layout({0, 3}), 2);
  TestTensor& second = device(Layout({5, 7}, {1, 5}), 3);
  ManagedTensor kept[3];
  const DLManagedTensorVersioned* sources[] = {borrow(kept[0], first), borrow(kept[1], none),
                                               borrow(kept[2], second)};
  dlb_tensor* results[3] = {poison<dlb_tensor>(), poison<dlb_tensor>(), poison<dlb_tensor>()};
  ASSERT_OK(dlb_cuda_stage_to_host(sources, 3, kLegacy, nullptr, results));
  Handle handles[3];
  for (int i = 0; i < 3; ++i) handles[i].tensor = results[i];
  EXPECT_EQ(elements_of(handles[0]), elements_with(first, 1));
  EXPECT_EQ(elements_of(handles[1]), std::vector<uint8_t>());
  EXPECT_EQ(elements_of(handles[2]), elements_with(second, 3));

  TestTensor& target = device(Layout({40}), 7);
  ManagedTensor kept_target;
  const DLManagedTensorVersioned* targets[] = {borrow(kept_target, target)};
  const DLManagedTensorVersioned* back[] = {handles[0].borrowed()};
  ASSERT_OK(dlb_cuda_stage(back, targets, 1, DLBRIDGE_CUDA_NO_SYNC));
  EXPECT_EQ(elements(target), elements_with(first, 1));

  EXPECT_OK(dlb_cuda_stage_to_host(nullptr, 0, kLegacy, nullptr, nullptr));
  EXPECT_OK(dlb_cuda_stage(nullptr, nullptr, 0, kLegacy));
}

TEST_F(CApiCuda, RefusedBatchMakesNothing) {
  TestTensor& good = device(Layout({40}));
  ManagedTensor kept[2];
  DLManagedTensorVersioned* broken = ManagedTensor(good.acquire()).release();
  broken->dl_tensor.ndim = -1;
  const DLManagedTensorVersioned* sources[] = {borrow(kept[0], good), broken};
  dlb_tensor* results[2] = {poison<dlb_tensor>(), poison<dlb_tensor>()};
  expect_failure(dlb_cuda_stage_to_host(sources, 2, kLegacy, nullptr, results),
                 DLBRIDGE_INVALID_DESCRIPTOR, "invalid_ndim", "ndim");
  EXPECT_EQ(results[0], nullptr);
  EXPECT_EQ(results[1], nullptr);
  broken->deleter(broken);
}

// ---- Asynchronous

TEST_F(CApiCuda, AsyncHoldsItsShare) {
  TestTensor& x = device(Layout({200, 300}));
  const CUstream producer = stream();
  produce(producer, x, 5);
  sim().hold();
  Handle source(x.acquire());
  FutureHandle going;
  ASSERT_OK(dlb_cuda_stage_to_host_async(&source.tensor, 1, reinterpret_cast<intptr_t>(producer),
                                         nullptr, &going.future));
  source.release();
  EXPECT_EQ(x.releases(), 0);
  EXPECT_FALSE(going.done());
  EXPECT_FALSE(going.wait(0.001));
  EXPECT_FALSE(drain(0.001));
  int32_t descriptor = -1;
  ASSERT_OK(dlb_future_fd(going.future, &descriptor));
  pollfd ready{descriptor, POLLIN, 0};
  EXPECT_EQ(poll(&ready, 1, 0), 0);

  sim().go();
  EXPECT_TRUE(going.wait(-1));
  EXPECT_TRUE(going.done());
  EXPECT_EQ(poll(&ready, 1, 10'000), 1);
  EXPECT_EQ(x.releases(), 1);
  EXPECT_EQ(going.count(), 1u);
  Handle result = going.result();
  Handle again = going.result();
  EXPECT_EQ(result.borrowed()->dl_tensor.data, again.borrowed()->dl_tensor.data);
  auto* none = poison<dlb_tensor>();
  expect_invalid(dlb_future_result(going.future, 1, &none), "index");
  EXPECT_EQ(none, nullptr);
  dlb_future_drop(std::exchange(going.future, nullptr));
  again.release();
  EXPECT_EQ(elements_of(result), elements_with(x, 5));
}

TEST_F(CApiCuda, WaitsOfAnyLengthEnd) {
  TestTensor& x = device(Layout({200, 300}));
  Handle source(x.acquire());
  for (const double seconds : {1e300, std::numeric_limits<double>::infinity(), -1e300}) {
    FutureHandle going;
    sim().hold();
    ASSERT_OK(dlb_cuda_stage_to_host_async(&source.tensor, 1, kLegacy, nullptr, &going.future));
    std::thread waker([this] {
      EXPECT_TRUE(sim().wait_until_blocked(1));
      sim().go();
    });
    EXPECT_TRUE(going.wait(seconds)) << seconds;
    waker.join();
  }
  int32_t done = -1;
  FutureHandle going;
  ASSERT_OK(dlb_cuda_stage_to_host_async(&source.tensor, 1, kLegacy, nullptr, &going.future));
  expect_invalid(dlb_future_wait(going.future, std::nan(""), &done), "seconds");
  expect_invalid(dlb_cuda_drain(std::nan(""), &done), "seconds");
}

TEST_F(CApiCuda, AsyncIntoHoldsBoth) {
  TestTensor& x = device(Layout({200, 300}));
  TestTensor& out = host(Layout({200, 300}, {1, 200}), 9);
  FutureHandle going;
  {
    Handle source(x.acquire());
    Handle destination(out.acquire());
    ASSERT_OK(dlb_cuda_stage_async(&source.tensor, &destination.tensor, 1, kLegacy, nullptr,
                                   &going.future));
  }
  Handle result = going.result();
  EXPECT_EQ(result.borrowed()->dl_tensor.data, out.view().data);
  EXPECT_EQ(elements(out), elements_with(x, 1));
  EXPECT_EQ(x.releases(), 1);
  dlb_future_drop(std::exchange(going.future, nullptr));
  EXPECT_EQ(out.releases(), 0);
  result.release();
  EXPECT_EQ(out.releases(), 1);
}

TEST_F(CApiCuda, BorrowDefersTheRead) {
  start();
  for (const bool borrow : {false, true}) {
    TestTensor& x = host(Layout({200, 300}), 3);
    TestTensor& target = device(Layout({200, 300}), 4);
    Handle source(x.acquire());
    Handle to(target.acquire());
    FutureHandle going;
    const auto options = flags(borrow ? DLBRIDGE_CUDA_BORROW : 0);
    Handle before(device(Layout({8})).acquire());
    FutureHandle earlier;
    sim().hold();
    // What is in flight on the same stream keeps the thread busy that would read for us.
    ASSERT_OK(dlb_cuda_stage_to_host_async(&before.tensor, 1, kLegacy, nullptr, &earlier.future));
    const uint64_t copies = sim().calls("memcpy_async");
    // The whole of it fits the ring's slots, so the call returns while the device stands still.
    ASSERT_OK(
        dlb_cuda_stage_async(&source.tensor, &to.tensor, 1, kLegacy, &options, &going.future));
    EXPECT_EQ(sim().calls("memcpy_async") > copies, !borrow);
    if (!borrow) fill(x, 8);  // too late to be seen
    sim().go();
    Handle result = going.result();
    EXPECT_EQ(result.borrowed()->dl_tensor.data, target.view().data);
    EXPECT_EQ(elements(target), elements_with(target, 3));
  }
}

TEST_F(CApiCuda, ManyGoAsynchronously) {
  TestTensor& first = device(Layout({40}), 1);
  TestTensor& second = device(Layout({5, 7}), 3);
  FutureHandle going;
  {
    Handle a(first.acquire());
    Handle b(second.acquire());
    dlb_tensor* const sources[] = {a.tensor, b.tensor};
    ASSERT_OK(dlb_cuda_stage_to_host_async(sources, 2, kLegacy, nullptr, &going.future));
  }
  EXPECT_EQ(going.count(), 2u);
  const Handle results[] = {going.result(0), going.result(1)};
  EXPECT_EQ(elements_of(results[0]), elements_with(first, 1));
  EXPECT_EQ(elements_of(results[1]), elements_with(second, 3));
  FutureHandle empty;
  ASSERT_OK(dlb_cuda_stage_to_host_async(nullptr, 0, kLegacy, nullptr, &empty.future));
  EXPECT_EQ(empty.count(), 0u);
}

TEST_F(CApiCuda, NoSnapshotFlagSkipsWait) {
  for (const uint32_t bits : {0u, uint32_t{DLBRIDGE_CUDA_NO_SNAPSHOT}}) {
    TestTensor& x = device(Layout({200, 300}));
    const CUstream producer = stream();
    Handle source(x.acquire());
    const auto options = flags(bits);
    FutureHandle going;
    sim().hold();
    ASSERT_OK(dlb_cuda_stage_to_host_async(&source.tensor, 1, reinterpret_cast<intptr_t>(producer),
                                           &options, &going.future));
    produce(producer, x, 6);
    sim().go();
    Handle result = going.result();
    sim().synchronize(producer);
    EXPECT_EQ(sim().reports_of(cuda_sim::ReportKind::race) > 0, bits != 0) << sim().complaint();
    sim().clear_reports();
  }
}

TEST_F(CApiCuda, DeviceFailureRepeats) {
  TestTensor& x = device(Layout({200, 300}));
  expect_losses();
  const CUstream producer = stream();
  sim().hold();
  sim().enqueue_fault(producer, CUDA_ERROR_ILLEGAL_ADDRESS);
  Handle source(x.acquire());
  // Memory that the device may still read is never released: this keeps it reachable for a leak
  // checker.
  static const dlb_tensor* lost = nullptr;
  lost = source.tensor;
  EXPECT_NE(lost, nullptr);
  FutureHandle going;
  ASSERT_OK(dlb_cuda_stage_to_host_async(&source.tensor, 1, reinterpret_cast<intptr_t>(producer),
                                         nullptr, &going.future));
  sim().go();
  for (int i = 0; i < 2; ++i) {
    auto* result = poison<dlb_tensor>();
    expect_failure(dlb_future_result(going.future, 0, &result), DLBRIDGE_DEVICE_FAILED,
                   "device_failed", "device");
    EXPECT_EQ(result, nullptr);
    EXPECT_NE(std::string(last_error().message).find("CUDA_ERROR_ILLEGAL_ADDRESS"),
              std::string::npos);
  }
  EXPECT_TRUE(going.done());
  auto* later = poison<dlb_future>();
  expect_failure(dlb_cuda_stage_to_host_async(&source.tensor, 1, kLegacy, nullptr, &later),
                 DLBRIDGE_DEVICE_FAILED, "device_failed", "device");
  EXPECT_EQ(later, nullptr);
}

TEST_F(CApiCuda, DropNeitherWaitsNorCancels) {
  TestTensor& x = device(Layout({200, 300}));
  TestTensor& out = host(Layout({200, 300}), 9);
  sim().hold();
  Handle source(x.acquire());
  Handle destination(out.acquire());
  dlb_future* future = nullptr;
  ASSERT_OK(
      dlb_cuda_stage_async(&source.tensor, &destination.tensor, 1, kLegacy, nullptr, &future));
  EXPECT_OK(dlb_future_drop(future));
  EXPECT_OK(dlb_future_drop(nullptr));
  sim().go();
  EXPECT_TRUE(drain(30));
  EXPECT_EQ(elements(out), elements_with(x, 1));
}

// ---- Pinned memory

TEST_F(CApiCuda, PinnedEmptyUsesPool) {
  start();
  const int64_t shape[] = {3, 1000};
  Handle pinned;
  ASSERT_OK(dlb_cuda_pinned_empty(DLDataType(kFloat32), 2, shape, &pinned.tensor));
  const DLTensor& tensor = pinned.borrowed()->dl_tensor;
  EXPECT_EQ(pinned.borrowed()->flags, 0u);
  EXPECT_EQ(tensor.device.device_type, kDLCPU);
  EXPECT_EQ(tensor.ndim, 2);
  EXPECT_EQ(tensor.shape[1], 1000);
  EXPECT_EQ(tensor.strides[0], 1000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data) % 64, 0u);
  std::memset(tensor.data, 1, 12000);

  const dlb_pinned_stats found = stats();
  EXPECT_GE(found.owned, 12000u);
  EXPECT_EQ(found.registered, sim().registered_bytes());
  EXPECT_EQ(found.registered,
            found.free + found.owned + found.in_flight + found.quarantined + found.leaked);
  EXPECT_GT(found.limit, found.registered);
  EXPECT_EQ(found.grows, 1u);
  EXPECT_EQ(found.misses, 1u);

  int32_t held = -1;
  const CUstream user = stream();
  EXPECT_OK(dlb_cuda_record_stream(tensor.data, 1, reinterpret_cast<intptr_t>(user), &held));
  EXPECT_EQ(held, 1);
  EXPECT_OK(dlb_cuda_record_stream(&held, 1, kLegacy, &held));
  EXPECT_EQ(held, 0);

  pinned.release();
  size_t freed = 0;
  EXPECT_OK(dlb_cuda_trim_pinned(0, &freed));
  EXPECT_EQ(freed, found.registered);
  EXPECT_EQ(stats().registered, 0u);
  EXPECT_OK(dlb_cuda_trim_pinned(0, nullptr));
}

TEST_F(CApiCuda, LimitRefusesPinnedEmpty) {
  start();
  ASSERT_OK(dlb_cuda_set_pinned_limit(0));
  EXPECT_EQ(stats().limit, 0u);
  const int64_t shape[] = {1 << 20};
  auto* result = poison<dlb_tensor>();
  expect_failure(dlb_cuda_pinned_empty(DLDataType(kFloat32), 1, shape, &result),
                 DLBRIDGE_OUT_OF_MEMORY, "out_of_memory", "pinned memory");
  EXPECT_EQ(result, nullptr);
  EXPECT_EQ(stats().refused, 1u);
}

TEST_F(CApiCuda, PinnedEmptyChecksArguments) {
  start();
  struct Row {
    DLDataType dtype;
    int32_t ndim;
    const int64_t* shape;
    const char* code;
  };
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  static const int64_t negative[] = {2, -1};
  static const int64_t many[] = {kMax, 2};
  const Row rows[] = {
      {DLDataType(kFloat32), -1, negative, "invalid_ndim"},
      {DLDataType(kFloat32), 65, negative, "invalid_ndim"},
      {DLDataType(kFloat32), 2, nullptr, "null_shape"},
      {DLDataType(kFloat32), 2, negative, "negative_extent"},
      {DLDataType(kFloat32), 2, many, "extent_overflow"},
      {{99, 8, 1}, 1, many, "unknown_dtype"},
  };
  for (const Row& row : rows) {
    auto* result = poison<dlb_tensor>();
    EXPECT_EQ(dlb_cuda_pinned_empty(row.dtype, row.ndim, row.shape, &result),
              DLBRIDGE_INVALID_DESCRIPTOR)
        << row.code;
    EXPECT_STREQ(last_error().code, row.code);
    EXPECT_EQ(result, nullptr);
  }
  Handle scalar;
  EXPECT_OK(dlb_cuda_pinned_empty(DLDataType(kFloat32), 0, nullptr, &scalar.tensor));
  Handle empty;
  EXPECT_OK(dlb_cuda_pinned_empty(DLDataType(kFloat32), 2, std::vector<int64_t>{0, 3}.data(),
                                  &empty.tensor));
}

// ---- What every function refuses

// Each function with good arguments but for `stream` and `options`; none of them succeeds when one
// of these is wrong.
class CApiCudaArguments : public CApiCuda {
 protected:
  void refuse(intptr_t stream, const dlb_cuda_options* options, dlb_status status,
              const char* code) {
    TestTensor& x = device(Layout({4}));
    TestTensor& y = host(Layout({4}));
    Handle on_device(x.acquire());
    Handle on_host(y.acquire());
    const DLManagedTensorVersioned* from = on_device.borrowed();
    const DLManagedTensorVersioned* to = on_host.borrowed();
    auto* tensor = poison<dlb_tensor>();
    dlb_future* futures[] = {poison<dlb_future>(), poison<dlb_future>()};
    std::vector<dlb_status> found = {
        dlb_cuda_stage_to_host(&from, 1, stream, options, &tensor),
        dlb_cuda_stage_to_host_async(&on_device.tensor, 1, stream, options, &futures[0]),
        dlb_cuda_stage_async(&on_host.tensor, &on_device.tensor, 1, stream, options, &futures[1]),
    };
    if (options == nullptr) found.push_back(dlb_cuda_stage(&to, &from, 1, stream));
    for (const dlb_status& each : found) EXPECT_EQ(each, status) << &each - found.data();
    EXPECT_STREQ(last_error().code, code) << last_error().message;
    EXPECT_EQ(tensor, nullptr);
    for (const dlb_future* future : futures) EXPECT_EQ(future, nullptr);
    EXPECT_EQ(x.releases() + y.releases(), 0);
  }
};

TEST_F(CApiCudaArguments, StreamZeroMeansTwoThings) {
  refuse(0, nullptr, DLBRIDGE_INVALID_ARGUMENT, "stream_invalid");
}

TEST_F(CApiCudaArguments, OptionsThatAreNotKnown) {
  auto options = flags(8);
  refuse(kLegacy, &options, DLBRIDGE_INVALID_ARGUMENT, "invalid_argument");
  options = flags(0);
  options.reserved = 1;
  refuse(kLegacy, &options, DLBRIDGE_INVALID_ARGUMENT, "invalid_argument");
  options = flags(0);
  options.struct_size = 3;
  refuse(kLegacy, &options, DLBRIDGE_WRONG_STRUCT_SIZE, "invalid_argument");
}

TEST_F(CApiCuda, NullIsNamed) {
  TestTensor& x = device(Layout({4}));
  Handle source(x.acquire());
  const DLManagedTensorVersioned* from = source.borrowed();
  dlb_future* future = nullptr;
  dlb_tensor* tensor = nullptr;
  dlb_tensor* const none = nullptr;
  int32_t number = 0;
  size_t count = 0;
  expect_invalid(dlb_cuda_availability(nullptr), "dlb_cuda_info");
  expect_invalid(dlb_cuda_drain(0, nullptr), "drained");
  expect_invalid(dlb_cuda_stage_to_host(&from, 1, kLegacy, nullptr, nullptr), "results");
  expect_invalid(dlb_cuda_stage_to_host(nullptr, 1, kLegacy, nullptr, &tensor), "sources");
  expect_invalid(dlb_cuda_stage(&from, nullptr, 1, kLegacy), "targets");
  expect_invalid(dlb_cuda_stage_to_host_async(&source.tensor, 1, kLegacy, nullptr, nullptr),
                 "future");
  expect_invalid(dlb_cuda_stage_to_host_async(nullptr, 1, kLegacy, nullptr, &future), "sources");
  expect_invalid(dlb_cuda_stage_to_host_async(&none, 1, kLegacy, nullptr, &future), "sources");
  expect_invalid(dlb_cuda_stage_async(&source.tensor, nullptr, 1, kLegacy, nullptr, &future),
                 "targets");
  expect_invalid(dlb_cuda_stage_async(&source.tensor, &none, 1, kLegacy, nullptr, &future),
                 "targets");
  expect_invalid(dlb_future_done(nullptr, &number), "future");
  expect_invalid(dlb_future_wait(nullptr, 0, &number), "future");
  expect_invalid(dlb_future_count(nullptr, &count), "future");
  expect_invalid(dlb_future_result(nullptr, 0, &tensor), "future");
  expect_invalid(dlb_future_fd(nullptr, &number), "future");
  expect_invalid(dlb_cuda_pinned_empty(DLDataType(kFloat32), 0, nullptr, nullptr), "result");
  expect_invalid(dlb_cuda_pinned_stats(nullptr), "dlb_pinned_stats");
  expect_invalid(dlb_cuda_record_stream(nullptr, 0, kLegacy, nullptr), "held");
  from = nullptr;
  expect_failure(dlb_cuda_stage_to_host(&from, 1, kLegacy, nullptr, &tensor),
                 DLBRIDGE_INVALID_DESCRIPTOR, "null_descriptor", "descriptor");
}

TEST_F(CApiCuda, RefusesWhatCannotBeCopied) {
  ManagedTensor kept[3];
  const DLManagedTensorVersioned* x = borrow(kept[0], device(Layout({4})));
  const DLManagedTensorVersioned* other_shape = borrow(kept[1], host(Layout({5})));
  const DLManagedTensorVersioned* y = borrow(kept[2], host(Layout({4})));
  expect_failure(dlb_cuda_stage(&x, &other_shape, 1, kLegacy), DLBRIDGE_REFUSED, "shape_mismatch",
                 "shape");
  dlb_tensor* result = nullptr;
  expect_failure(dlb_cuda_stage_to_host(&y, 1, kLegacy, nullptr, &result), DLBRIDGE_REFUSED,
                 "unsupported_device", "x");
  // An address of the host in a descriptor that names the device.
  const_cast<DLManagedTensorVersioned*>(y)->dl_tensor.device = {kDLCUDA, 1};
  expect_failure(dlb_cuda_stage_to_host(&y, 1, kLegacy, nullptr, &result),
                 DLBRIDGE_INVALID_ARGUMENT, "invalid_device", "data");
}

TEST_F(CApiCuda, StructSizesAreChecked) {
  start();
  struct Newer {
    dlb_pinned_stats known;
    unsigned char more[24];
  };
  Newer newer{};
  for (const size_t size : {sizeof(dlb_pinned_stats), sizeof(Newer)}) {
    newer.known.struct_size = size;
    EXPECT_EQ(dlb_cuda_pinned_stats(&newer.known), DLBRIDGE_OK) << size;
  }
  newer.more[23] = 1;
  EXPECT_EQ(dlb_cuda_pinned_stats(&newer.known), DLBRIDGE_WRONG_STRUCT_SIZE);
  newer.known.struct_size = sizeof(dlb_pinned_stats) - 1;
  EXPECT_EQ(dlb_cuda_pinned_stats(&newer.known), DLBRIDGE_WRONG_STRUCT_SIZE);
  auto info = sized<dlb_cuda_info>();
  EXPECT_OK(dlb_cuda_availability(&info));
  --info.struct_size;
  EXPECT_EQ(dlb_cuda_availability(&info), DLBRIDGE_WRONG_STRUCT_SIZE);
}

}  // namespace
}  // namespace dlbridge::test
