// SPDX-License-Identifier: Apache-2.0
// Seams: host memory is registered in pieces, 1 GiB each in earnest and 2 MiB here, and no single
// copy may cross from one to the next. The simulator reports one that does.
#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

class StagingSeams : public StagingTest {
 protected:
  static constexpr int64_t kPiece = int64_t{2} << 20;

  void SetUp() override { start({.max_registration_bytes = kPiece}); }

  // To host and back again through memory of the pool that has several seams.
  void expect_round_trip(const Layout& layout) {
    TestTensor& x = device(layout);
    const CUstream caller = stream();
    produce(caller, x, 2);
    for (const bool row_major : {false, true}) {
      const Loan result = cuda::stage_to_host(x.view(), on(caller), {.row_major = row_major});
      EXPECT_GT(cuda::pinned_stats().owned, size_t{3} * kPiece);
      EXPECT_TRUE(elements(result) == elements_with(x, 2));
      TestTensor& target = device(layout, 3);
      cuda::stage(result.view(), target.view(), on(caller));
      sim().synchronize(caller);
      EXPECT_TRUE(elements(target) == elements_with(x, 2));
    }
  }
};

TEST_F(StagingSeams, SplitFlatCopies) { expect_round_trip({{2'700'001}}); }
TEST_F(StagingSeams, SplitRows) { expect_round_trip({{1700, 1501}, {2003, 1}}); }
TEST_F(StagingSeams, SplitLongRows) { expect_round_trip({{5, 700'003}, {700'100, 1}}); }
TEST_F(StagingSeams, SplitBoxes) { expect_round_trip({{37, 40, 1600}, {100'000, 2000, 1}}); }
TEST_F(StagingSeams, SplitWhatIsPacked) {
  expect_round_trip({{2'700'001}, std::vector<int64_t>{2}});
}
TEST_F(StagingSeams, SplitTranspositions) { expect_round_trip({{1700, 1501}, {1, 1700}}); }

TEST_F(StagingSeams, SplitBatches) {
  std::vector<TensorView> views;
  std::vector<TestTensor*> tensors;
  for (uint32_t i = 0; i < 5; ++i) {
    tensors.push_back(&device({{700'000}}, i + 1));
    views.push_back(tensors.back()->view());
  }
  const std::vector<Loan> results = cuda::stage_to_host(views, on(stream()));
  for (uint32_t i = 0; i < 5; ++i)
    EXPECT_TRUE(elements(results[i]) == elements_with(*tensors[i], i + 1));
}

TEST_F(StagingSeams, DoNotConcernPageableMemory) {
  TestTensor& x = device({{2'700'001}});
  TestTensor& out = host({{2'700'001}});
  const CUstream caller = stream();
  cuda::stage(x.view(), out.view(), on(caller));
  EXPECT_TRUE(elements(out) == elements_with(x, 1));
  fill(out, 5);
  cuda::stage(out.view(), x.view(), on(caller));
  sim().synchronize(caller);
  EXPECT_TRUE(elements(x) == elements_with(x, 5));
}

TEST_F(StagingSeams, MemoryIsRegisteredInPieces) {
  TestTensor& x = device({{2'700'001}});
  const Loan result = cuda::stage_to_host(x.view(), on(stream()));
  EXPECT_GE(sim().leaks().registrations, 6u);
}

// Memory that others have registered in two pieces: no copy of CUDA crosses their border, and only
// its refusal tells.
TEST_F(StagingSeams, ForeignPiecesCountAsPageable) {
  constexpr int64_t kFloats = 100'000;
  constexpr size_t kFirst = 50 * 4096;
  TestTensor& x = device({{kFloats}}, 2);
  TestTensor& out = host({{kFloats}}, 3);
  const auto pieces = [&](auto&& body) {
    in_context(1, [&] {
      body(out.memory(), kFirst);
      body(out.memory() + kFirst, out.span() - kFirst);
    });
  };
  pieces([&](uint8_t* at, size_t bytes) {
    EXPECT_EQ(sim().api().host_register(at, bytes, CU_MEMHOSTREGISTER_PORTABLE), CUDA_SUCCESS);
  });
  cuda::stage(x.view(), out.view(), on(stream()));
  EXPECT_EQ(elements(out), elements_with(x, 2));
  fill(out, 4);
  const CUstream consumer = stream();
  cuda::stage(out.view(), x.view(), on(consumer));
  sim().synchronize(consumer);
  EXPECT_EQ(elements(x), elements_with(out, 4));
  EXPECT_EQ(sim().reports_of(cuda_sim::ReportKind::seam_crossed), 2u) << "how it was found out";
  sim().clear_reports();
  pieces([&](uint8_t* at, size_t) { sim().api().host_unregister(at); });
}

}  // namespace
}  // namespace dlbridge::test
