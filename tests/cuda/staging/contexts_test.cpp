// SPDX-License-Identifier: Apache-2.0
// What a staging leaves behind on its caller's thread: nothing. Its contexts and its capture mode
// are as they were, and no device gets a context that had none.
#include "runtime/guards.h"
#include "staging_paths.h"

namespace dlbridge::test {
namespace {

class CallersThread : public StagingPathTest, public testing::WithParamInterface<StagingPath> {
 protected:
  // On a thread with these contexts, the current one last.
  void walk_with(const std::vector<int>& stack) {
    std::thread([&] {
      for (const int index : stack) {
        const CUcontext context = index < 0 ? nullptr : sim().make_context(index);
        ASSERT_EQ(sim().api().ctx_push_current(context), CUDA_SUCCESS);
      }
      const std::optional<Error> error = walk(GetParam());
      EXPECT_FALSE(error) << error->what();
      EXPECT_EQ(sim().context_stack(), stack);
      EXPECT_EQ(sim().capture_mode(), CU_STREAM_CAPTURE_MODE_GLOBAL);
    }).join();
  }
};

TEST_P(CallersThread, KeepsItsContexts) {
  for (const std::vector<int>& stack : {std::vector<int>{}, {1}, {1, 1}, {-1}, {1, -1}, {-1, 1}}) {
    SCOPED_TRACE(testing::PrintToString(stack));
    start();
    walk_with(stack);
    EXPECT_FALSE(sim().context_active(0)) << "a context was made on an unused device";
  }
}

TEST_P(CallersThread, KeepsOtherDevicesContext) {
  for (const std::vector<int>& stack : {std::vector<int>{0}, {1, 0}, {0, 1}}) {
    SCOPED_TRACE(testing::PrintToString(stack));
    start();
    walk_with(stack);
  }
}

INSTANTIATE_TEST_SUITE_P(All, CallersThread, testing::ValuesIn(staging_paths()),
                         testing::PrintToStringParamName());

// ---- What needs some context, whichever

class AnyContext : public StagingTest {};

TEST_F(AnyContext, PinnedUsesExistingContext) {
  TestTensor& like = host({{100'000}});
  Loan memory = cuda::pinned_empty(like.view());
  std::memset(memory.view().data, 1, like.span());
  memory.reset();
  cuda::set_pinned_limit(size_t{16} << 20);
  EXPECT_GT(cuda::trim_pinned(), 0u);
  EXPECT_EQ(cuda::pinned_stats().registered, 0u);
  EXPECT_FALSE(sim().context_active(0));
}

TEST_F(AnyContext, PinnedPrefersCurrentContext) {
  start({.active = {0, 1}});
  use_device(1);
  TestTensor& like = host({{1000}});
  const Loan memory = cuda::pinned_empty(like.view());
  EXPECT_EQ(cuda::attributes_of(sim().api(), memory.view().data).device, 1);
  EXPECT_EQ(sim().leaks().retained_contexts, 1u) << "that of the other device is not retained";
}

TEST_F(AnyContext, FirstDeviceGetsContext) {
  start({.active = {}});
  TestTensor& like = host({{1000}});
  const Loan memory = cuda::pinned_empty(like.view());
  EXPECT_TRUE(sim().context_active(0));
  EXPECT_FALSE(sim().context_active(1));
  EXPECT_EQ(sim().reports().size(), sim().reports_of(cuda_sim::ReportKind::context_created));
  sim().clear_reports();
}

TEST_F(AnyContext, LimitNeedsNone) {
  start({.active = {}});
  cuda::set_pinned_limit(size_t{16} << 20);
  EXPECT_EQ(cuda::trim_pinned(), 0u);
  EXPECT_FALSE(sim().context_active(0) || sim().context_active(1));
}

TEST_F(AnyContext, AvailabilityCreatesNone) {
  start({.active = {}});
  EXPECT_TRUE(cuda::availability().usable);
  EXPECT_EQ(cuda::availability().device_count, 2);
  EXPECT_TRUE(cuda::drain(0));
  static_cast<void>(cuda::pinned_stats());
  EXPECT_FALSE(sim().context_active(0) || sim().context_active(1));
}

TEST_F(AnyContext, AvailabilityIsKept) {
  static_cast<void>(cuda::pinned_stats());  // makes the engine
  sim().fail({"get_device_count"});
  EXPECT_TRUE(cuda::availability().usable);
  int count = 0;
  EXPECT_EQ(cuda::cuda_api().get_device_count(&count), CUDA_ERROR_UNKNOWN);  // the first call
}

TEST_F(AnyContext, UnusedDeviceIsRefused) {
  TestTensor& x = device({{100}});
  TensorView elsewhere = x.view();
  elsewhere.device.device_id = 0;
  expect_error(ErrorCode::invalid_device,
               [&] { static_cast<void>(cuda::stage_to_host(elsewhere, numbered(1, 0))); });
  EXPECT_FALSE(sim().context_active(0));
}

}  // namespace
}  // namespace dlbridge::test
