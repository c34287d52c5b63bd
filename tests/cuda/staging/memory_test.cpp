// SPDX-License-Identifier: Apache-2.0
// Stagings for which the memory of the host runs out: each allocation of a call fails in turn,
// until the call needs no more of them. Nothing runs on, and every loan is the caller's as before.
//
// Replaces operator new for the whole program; but for a thread that asks, it does what it did, and
// operator delete goes on to call free().
#include <cstdlib>
#include <new>

#include "runtime/cuda_api.h"
#include "staging_fixture.h"

// A sanitizer has its own.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {

// Counts down to the allocation that fails; negative: none does.
constinit thread_local int t_allocations_left = -1;

}  // namespace

void* operator new(size_t bytes) {
  if (t_allocations_left >= 0 && t_allocations_left-- == 0) throw std::bad_alloc();
  if (void* const memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}

namespace dlbridge::test {
namespace {

// The simulator has all the memory that it wants: in its calls no allocation fails or is counted.
const cuda::CudaApi* g_inner = nullptr;

template <auto kMember>
struct Generous;
template <typename Result, typename... Arguments, Result (*cuda::CudaApi::*kMember)(Arguments...)>
struct Generous<kMember> {
  static Result call(Arguments... arguments) {
    const int left = std::exchange(t_allocations_left, -1);
    const Result result = (g_inner->*kMember)(arguments...);
    t_allocations_left = left;
    return result;
  }
};

cuda::CudaApi generous() {
  cuda::CudaApi api{};
#define OWN(member, parameters) api.member = &Generous<&cuda::CudaApi::member>::call;
#define DRIVER(member, symbol, parameters) OWN(member, parameters)
#include "runtime/cuda_api.def"
#undef DRIVER
#undef OWN
  return api;
}

class StagingWithoutMemory : public StagingTest {
 protected:
  // Above the limit, so that what is between is pageable, too.
  static constexpr int64_t kElements = 600'000;
  static constexpr size_t kLimit = size_t{2} << 20;

  using Call = std::function<cuda::Future(std::vector<Loan>& loans)>;

  // `make` returns what `call` takes over.
  void fail_each_allocation(const std::function<std::vector<Loan>()>& make, const Call& call) {
    int failures = 0;
    for (int n = 0; n < 2000; ++n) {
      SCOPED_TRACE("allocation " + std::to_string(n));
      std::vector<Loan> loans = make();
      t_allocations_left = n;
      cuda::Future future;
      std::optional<Error> error;
      bool out_of_memory = false;
      try {
        future = call(loans);
      } catch (const Error& told) {
        t_allocations_left = -1;
        error = told;
      } catch (const std::bad_alloc&) {
        out_of_memory = true;
      }
      const bool reached = t_allocations_left < 0;
      t_allocations_left = -1;
      if (error) {
        EXPECT_EQ(name(error->code()), "out_of_memory") << error->what();
      }
      if (!error && !out_of_memory) {  // it may have done without
        ASSERT_TRUE(future.wait(10));
        ASSERT_TRUE(cuda::drain(10));
        if (reached) continue;
        EXPECT_GT(failures, 5);
        return;
      }
      ++failures;
      ASSERT_TRUE(cuda::drain(10));
      for (const Loan& loan : loans) ASSERT_TRUE(loan.owns_memory()) << "lost";
    }
    ADD_FAILURE() << "never succeeded";
  }

  void SetUp() override {
    start();
    table_ = generous();
    g_inner = &sim().api();
    cuda::inject_cuda_api(&table_);
    static_cast<void>(cuda::pinned_stats());
    static_cast<void>(cuda::pinned_empty(host({{1}}).view()));  // opens a device
    cuda::set_pinned_limit(kLimit);
    producer_ = stream();
    use_device(1);
  }

  static Layout broadcast() { return Layout({2, kElements}, {0, 1}); }

  CUstream producer_ = nullptr;

 private:
  cuda::CudaApi table_{};
};

TEST_F(StagingWithoutMemory, BatchKeepsLoans) {
  TestTensor& plain = device({{1000}});
  TestTensor& repeated = device(broadcast());
  fail_each_allocation(
      [&] {
        std::vector<Loan> loans;
        for (TestTensor* each : {&plain, &repeated, &plain, &repeated})
          loans.push_back(each->acquire());
        return loans;
      },
      [&](std::vector<Loan>& loans) { return cuda::stage_to_host_async(loans, on(producer_)); });
}

TEST_F(StagingWithoutMemory, OutKeepsLoans) {
  TestTensor& repeated = device(broadcast());
  TestTensor& out = host({{2, kElements}});
  fail_each_allocation(
      [&] {
        std::vector<Loan> loans;
        loans.push_back(repeated.acquire());
        loans.push_back(out.acquire());
        return loans;
      },
      [&](std::vector<Loan>& loans) {
        return cuda::stage_async(std::move(loans[0]), std::move(loans[1]), on(producer_));
      });
}

TEST_F(StagingWithoutMemory, ToDeviceKeepsLoans) {
  TestTensor& source = host({{kElements}});
  TestTensor& target = device({{kElements}});
  for (const bool borrow : {false, true}) {
    SCOPED_TRACE(borrow);
    fail_each_allocation(
        [&] {
          std::vector<Loan> loans;
          loans.push_back(source.acquire());
          loans.push_back(target.acquire());
          return loans;
        },
        [&](std::vector<Loan>& loans) {
          return cuda::stage_async(std::move(loans[0]), std::move(loans[1]), on(producer_),
                                   {.borrow = borrow});
        });
  }
}

}  // namespace
}  // namespace dlbridge::test

#endif
