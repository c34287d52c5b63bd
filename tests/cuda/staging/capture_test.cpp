// SPDX-License-Identifier: Apache-2.0
// Stream captures of others: whatever is staged meanwhile, they stay valid.
#include <semaphore>

#include "staging_paths.h"

namespace dlbridge::test {
namespace {

class CapturesOfOthers : public StagingPathTest, public testing::WithParamInterface<StagingPath> {};

// First use of everything: copy streams, events, memory, kernels.
TEST_P(CapturesOfOthers, SurviveOtherThreads) {
  const CUstream captured = stream();
  std::binary_semaphore ready(0);
  std::binary_semaphore capturing(0);
  std::optional<Error> error;
  std::thread staging([&] {
    sim().use_device(1);
    Walk how;
    how.before_call = [&] {
      ready.release();
      capturing.acquire();
    };
    error = walk(GetParam(), how);
    EXPECT_EQ(sim().capture_mode(), CU_STREAM_CAPTURE_MODE_GLOBAL);
  });
  ready.acquire();
  EXPECT_EQ(sim().begin_capture(captured, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  capturing.release();
  staging.join();
  EXPECT_FALSE(error) << error->what();
  EXPECT_TRUE(cuda::drain(10));
  EXPECT_EQ(sim().captured_operations(), 0u);
  EXPECT_EQ(sim().end_capture(captured), CUDA_SUCCESS) << "the capture was broken";
}

TEST_P(CapturesOfOthers, SurviveTheirOwnThread) {
  const CUstream captured = stream();
  Walk how;
  how.before_call = [&] {
    EXPECT_EQ(sim().begin_capture(captured, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  };
  const std::optional<Error> error = walk(GetParam(), how);
  EXPECT_FALSE(error) << error->what();
  EXPECT_TRUE(cuda::drain(10));
  EXPECT_EQ(sim().captured_operations(), 0u);
  EXPECT_EQ(sim().end_capture(captured), CUDA_SUCCESS) << "the capture was broken";
}

INSTANTIATE_TEST_SUITE_P(All, CapturesOfOthers, testing::ValuesIn(staging_paths()),
                         testing::PrintToStringParamName());

// ---- What is asked of the legacy stream

class CapturesOfBlockingStreams : public StagingTest {};

// Results that are dropped wait for an event on the legacy stream, which a capture of a blocking
// stream forbids: they wait until it is over.
TEST_F(CapturesOfBlockingStreams, DelayReuseOfResults) {
  constexpr int64_t kFloats = 2'400'000;  // above 8 MiB: a segment of its own
  TestTensor& x = device({{kFloats}});
  const CUstream caller = stream();
  Loan result = cuda::stage_to_host(x.view(), on(caller));
  const void* const block = result.view().data;
  const CUstream blocking = sim().make_stream(CU_STREAM_DEFAULT, 1);
  ASSERT_EQ(sim().begin_capture(blocking), CUDA_SUCCESS);
  result.reset();
  Loan next = cuda::stage_to_host(x.view(), on(caller));
  EXPECT_NE(next.view().data, block);
  EXPECT_GT(cuda::pinned_stats().quarantined, 0u);
  EXPECT_EQ(sim().end_capture(blocking), CUDA_SUCCESS) << "the capture was broken";
  wait_for_fences();
  Loan third = cuda::stage_to_host(x.view(), on(caller));
  EXPECT_EQ(third.view().data, block);
}

}  // namespace
}  // namespace dlbridge::test
