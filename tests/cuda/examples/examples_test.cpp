// SPDX-License-Identifier: Apache-2.0
// The examples of docs/reference/staging.md and docs/c.md, run on the simulator.
#include <gtest/gtest.h>

#include <vector>

#include "c/stage/frames.h"
#include "cpp/staging/recorder.h"
#include "dlbridge/managed_tensor.h"
#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

class Examples : public StagingTest {
 protected:
  // A picture of equal values, drawn by the stream.
  Loan picture(CUstream stream, float value) {
    TestTensor& tensor = device(Layout({8, 4}));
    const std::vector<float> values(32, value);
    std::vector<uint8_t> bytes(sizeof(float) * values.size());
    std::memcpy(bytes.data(), values.data(), bytes.size());
    sim().enqueue_write(stream, tensor.memory(), std::move(bytes));
    return tensor.acquire();
  }
};

float first_of(const TensorView& view) { return *static_cast<const float*>(view.data); }

TEST_F(Examples, RecorderInCpp) {
  Config config;
  config.schedule = Schedule::lazy;
  start(config);
  const CUstream producer = stream();
  {
    const Loan one = picture(producer, 2.5f);
    EXPECT_EQ(recorder::brightest(one.view(), on(producer)), 2.5f);
  }
  std::vector<Loan> pictures;
  for (const float value : {1.0f, 2.0f, 3.0f}) pictures.push_back(picture(producer, value));
  std::vector<float> written;
  recorder::record(std::move(pictures), on(producer),
                   [&](const TensorView& view) { written.push_back(first_of(view)); });
  EXPECT_EQ(written, (std::vector<float>{1, 2, 3}));
  const cuda::Future mask = recorder::send_mask(0.5f, picture(producer, 0), on(producer));
  EXPECT_EQ(recorder::brightest(mask.result().view(), on(producer)), 0.5f);
}

std::vector<float> written_by_c;

TEST_F(Examples, FramesInC) {
  start();
  EXPECT_EQ(gpu_is_usable(), 1);
  const CUstream producer = stream();
  const auto handle = reinterpret_cast<intptr_t>(producer);
  written_by_c.clear();
  dlb_tensor* frames[2] = {};
  for (dlb_tensor*& frame : frames) {
    DLManagedTensorVersioned* managed = to_managed(picture(producer, 0.25f));
    ASSERT_EQ(dlb_adopt(managed, &frame), DLBRIDGE_OK);
  }
  const DLManagedTensorVersioned* second = nullptr;
  ASSERT_EQ(dlb_tensor_borrow(frames[1], &second), DLBRIDGE_OK);
  EXPECT_EQ(send_mask(0.75f, second, handle), DLBRIDGE_OK);
  EXPECT_EQ(write_frames(frames, 2, handle,
                         [](const DLManagedTensorVersioned* frame) {
                           written_by_c.push_back(*static_cast<float*>(frame->dl_tensor.data));
                         }),
            DLBRIDGE_OK);
  EXPECT_EQ(written_by_c, (std::vector<float>{0.25f, 0.75f}));
  for (dlb_tensor* frame : frames) dlb_tensor_release(frame);
}

TEST_F(Examples, FramesInCWithoutADriver) {
  Config config;
  config.driver = cuda_sim::Driver::absent;
  start(config);
  testing::internal::CaptureStdout();
  EXPECT_EQ(gpu_is_usable(), 0);
  EXPECT_NE(testing::internal::GetCapturedStdout().find("no CUDA driver"), std::string::npos);
}

}  // namespace
}  // namespace dlbridge::test
