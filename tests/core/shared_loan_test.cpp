// SPDX-License-Identifier: Apache-2.0
// SharedLoan: references, and what a share of it describes.
#include "dlbridge/shared_loan.h"

#include <gtest/gtest.h>

#include <thread>
#include <utility>
#include <vector>

#include "memory.h"

namespace dlbridge {
namespace {

using test::ReleaseCounter;

Loan owning_loan(ReleaseCounter& counter) {
  return test::make_loan({3}, {1}, test::kFloat32, nullptr, counter.deleter());
}

TEST(SharedLoan, LastHolderReleases) {
  ReleaseCounter counter;
  Deleter reference;
  {
    SharedLoan first(owning_loan(counter));
    const SharedLoan second = first;
    SharedLoan third;
    third = std::move(first);
    reference = second.reference();
    const Loan share = third.share();
    EXPECT_EQ(share.view().shape[0], 3);
    EXPECT_NE(share.view().shape, third.view().shape);
  }
  EXPECT_EQ(counter.count(), 0);
  reference.release(reference.context);
  EXPECT_EQ(counter.count(), 1);
}

TEST(SharedLoan, CarriesTheOriginalStorage) {
  ReleaseCounter counter;
  int storage = 0;
  const SharedLoan plain(owning_loan(counter));
  EXPECT_EQ(plain.share().original.context, &counter);
  Loan loan = owning_loan(counter);
  loan.original = {&storage, [](void*) noexcept {}};
  const SharedLoan exported(std::move(loan));
  EXPECT_EQ(exported.original().context, &storage);
  EXPECT_EQ(SharedLoan(exported.share()).share().original.context, &storage);
}

TEST(SharedLoan, DropsOnAnyThread) {
  ReleaseCounter counter;
  {
    const SharedLoan shared(owning_loan(counter));
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([shared] {
        for (int k = 0; k < 500; ++k) static_cast<void>(shared.share());
      });
    }
  }
  EXPECT_EQ(counter.count(), 1);
}

}  // namespace
}  // namespace dlbridge
