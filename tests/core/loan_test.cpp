// SPDX-License-Identifier: Apache-2.0
// Loan: gives its deleter back exactly once on every remedy, keeps its description when moved, goes
// to the heap above rank 8.
#include "dlbridge/loan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "dlbridge/loan_over.h"
#include "memory.h"

namespace dlbridge {
namespace {

using test::ReleaseCounter;

static_assert(!std::is_copy_constructible_v<Loan> && !std::is_copy_assignable_v<Loan>);
static_assert(std::is_nothrow_move_constructible_v<Loan> &&
              std::is_nothrow_move_assignable_v<Loan>);

// Extents 1, 2, 3 …, strides 100, 101, 102 …
void describe_rank(Loan& loan, int32_t ndim) {
  loan.set_rank(ndim);
  for (int32_t i = 0; i < ndim; ++i) {
    loan.shape()[i] = i + 1;
    loan.strides()[i] = 100 + i;
  }
}

void expect_rank(const TensorView& view, int32_t ndim) {
  ASSERT_EQ(view.ndim, ndim);
  for (int32_t i = 0; i < ndim; ++i) {
    EXPECT_EQ(view.shape[i], i + 1);
    EXPECT_EQ(view.strides[i], 100 + i);
  }
}

bool lies_inside(const void* pointer, const Loan& loan) {
  const auto* begin = reinterpret_cast<const char*>(&loan);
  const auto* at = static_cast<const char*>(pointer);
  return std::less_equal<>()(begin, at) && std::less<>()(at, begin + sizeof(Loan));
}

TEST(Loan, StartsEmpty) {
  Loan loan;
  EXPECT_FALSE(loan.owns_memory());
  EXPECT_EQ(loan.view().ndim, 0);
  EXPECT_NE(loan.view().shape, nullptr);
  EXPECT_NE(loan.view().strides, nullptr);
  EXPECT_EQ(loan.view().size(), 1);
}

TEST(Loan, ReleasesOnceAfterMove) {
  ReleaseCounter counter;
  {
    Loan first;
    first.attach(counter.deleter());
    Loan second(std::move(first));
    Loan third;
    third = std::move(second);
    EXPECT_TRUE(third.owns_memory());
    EXPECT_EQ(counter.count(), 0);
  }
  EXPECT_EQ(counter.count(), 1);
}

TEST(Loan, MoveAssignmentReleases) {
  ReleaseCounter old_one;
  ReleaseCounter new_one;
  Loan target;
  target.attach(old_one.deleter());
  Loan source;
  source.attach(new_one.deleter());
  target = std::move(source);
  EXPECT_EQ(old_one.count(), 1);
  EXPECT_EQ(new_one.count(), 0);
}

TEST(Loan, SelfMoveKeepsTheDeleter) {
  ReleaseCounter counter;
  Loan loan;
  describe_rank(loan, 3);
  loan.attach(counter.deleter());
  Loan& same = loan;
  loan = std::move(same);
  EXPECT_TRUE(loan.owns_memory());
  expect_rank(loan.view(), 3);
  EXPECT_EQ(counter.count(), 0);
}

TEST(Loan, ResetReleasesOnce) {
  ReleaseCounter counter;
  Loan loan;
  describe_rank(loan, 12);
  loan.view().access = Access::read_only;
  loan.original = counter.deleter();
  loan.attach(counter.deleter());
  loan.reset();
  loan.reset();
  EXPECT_EQ(counter.count(), 1);
  EXPECT_EQ(loan.view().ndim, 0);
  EXPECT_EQ(loan.view().access, Access::writable);
  EXPECT_FALSE(loan.original);
  EXPECT_TRUE(lies_inside(loan.view().shape, loan));
}

TEST(Loan, ReturnsItsDeleter) {
  ReleaseCounter counter;
  Deleter deleter;
  {
    Loan loan;
    describe_rank(loan, 2);
    loan.attach(counter.deleter());
    deleter = loan.release_deleter();
    EXPECT_FALSE(loan.owns_memory());
    expect_rank(loan.view(), 2);
  }
  EXPECT_EQ(counter.count(), 0);
  deleter.release(deleter.context);
  EXPECT_EQ(counter.count(), 1);
}

TEST(Loan, NeverReleasesTheOriginal) {
  ReleaseCounter origin;
  ReleaseCounter counter;
  {
    Loan loan;
    loan.original = origin.deleter();
    loan.attach(counter.deleter());
    Loan moved(std::move(loan));
    EXPECT_EQ(moved.original.context, &origin);
    EXPECT_FALSE(loan.original);
  }
  EXPECT_EQ(origin.count(), 0);
  EXPECT_EQ(counter.count(), 1);
}

TEST(Loan, ReleasesOnAnyThread) {
  ReleaseCounter counter;
  Loan loan;
  loan.attach(counter.deleter());
  std::thread([moved = std::move(loan)]() mutable { moved.reset(); }).join();
  EXPECT_EQ(counter.count(), 1);
}

class LoanRank : public testing::TestWithParam<int> {};

TEST_P(LoanRank, MovesShapeAndStrides) {
  Loan source;
  describe_rank(source, GetParam());
  source.view().data = &source;
  Loan moved(std::move(source));
  expect_rank(moved.view(), GetParam());
  EXPECT_EQ(moved.view().data, &source);
  Loan assigned;
  describe_rank(assigned, 10);
  assigned = std::move(moved);
  expect_rank(assigned.view(), GetParam());
}

TEST_P(LoanRank, LeavesAnEmptyLoan) {
  Loan source;
  describe_rank(source, GetParam());
  const Loan moved(std::move(source));
  EXPECT_EQ(source.view().ndim, 0);
  EXPECT_TRUE(lies_inside(source.view().shape, source));
  describe_rank(source, GetParam());
  expect_rank(source.view(), GetParam());
  expect_rank(moved.view(), GetParam());
}

TEST_P(LoanRank, StoresEightInline) {
  Loan loan;
  describe_rank(loan, GetParam());
  EXPECT_EQ(lies_inside(loan.view().shape, loan), GetParam() <= Loan::kInlineRank);
  EXPECT_EQ(lies_inside(loan.view().strides, loan), GetParam() <= Loan::kInlineRank);
}

INSTANTIATE_TEST_SUITE_P(Ranks, LoanRank, testing::Values(0, 1, 7, 8, 9, 64, 100),
                         testing::PrintToStringParamName());

TEST(Loan, ChangesRank) {
  Loan loan;
  for (int32_t rank : {3, 12, 3, 20, 9, 8, 0, 64}) {
    describe_rank(loan, rank);
    expect_rank(loan.view(), rank);
    EXPECT_EQ(loan.view().shape, loan.shape());
    EXPECT_EQ(loan.view().strides, loan.strides());
  }
}

}  // namespace

TEST(LoanOver, OwnsWhatKeepsTheMemory) {
  std::vector<int32_t> values{1, 2, 3};
  const void* data = values.data();
  const Loan vector = loan_over(std::move(values));
  EXPECT_EQ(vector.view().data, data);
  EXPECT_EQ(vector.view().size(), 3);
  EXPECT_EQ(DType(vector.view().dtype), dtype_of<int32_t>());

  const auto memory = std::make_shared<std::array<float, 24>>();
  {
    const Loan loan = loan_over(memory, memory->data(), dtype_of<float>(), {2, 3, 4});
    EXPECT_EQ(memory.use_count(), 2);
    EXPECT_TRUE(std::ranges::equal(loan.view().extents(), std::array{2, 3, 4}));
    EXPECT_TRUE(std::ranges::equal(loan.view().stride_elements(), std::array{12, 4, 1}));
    EXPECT_EQ(loan.view().access, Access::writable);
  }
  EXPECT_EQ(memory.use_count(), 1);
}

}  // namespace dlbridge
