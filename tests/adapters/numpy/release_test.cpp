// SPDX-License-Identifier: Apache-2.0
// Giving back a Python owner from any thread: with the GIL, from a thread that Python knows without
// it, from a thread that Python does not know; exactly once each, without waiting and without
// touching a pending exception.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <thread>
#include <vector>

#include "dlbridge/numpy.h"
#include "interpreter.h"

namespace dlbridge {
namespace {

using test::eval;
using test::holds;
using test::Ref;
using test::run_pending_calls;
using test::WithoutGil;

// A loan of a fresh array without another holder, and a weak reference that shows when the array is
// gone.
struct Watched {
  Loan loan;
  Ref weak;
  bool gone() const { return holds("x() is None", weak.get()); }
};

Watched watched_loan() {
  const Ref array = eval("np.zeros(1000)");
  Watched watched{share_ndarray(array.get()), Ref(PyWeakref_NewRef(array.get(), nullptr))};
  return watched;
}

TEST(Release, DropsAtOnceWithTheGil) {
  Watched watched = watched_loan();
  EXPECT_FALSE(watched.gone());
  watched.loan.reset();
  EXPECT_TRUE(watched.gone());
}

TEST(Release, TakesTheGil) {
  Watched watched = watched_loan();
  {
    const WithoutGil scope;
    watched.loan.reset();
  }
  EXPECT_TRUE(watched.gone());
}

TEST(Release, DropsWithTheThreadsGil) {
  Watched watched = watched_loan();
  {
    const WithoutGil scope;
    std::thread([&] {
      const PyGILState_STATE state = PyGILState_Ensure();
      watched.loan.reset();
      PyGILState_Release(state);
    }).join();
  }
  EXPECT_TRUE(watched.gone());
}

TEST(Release, ForeignThreadQueues) {
  Watched watched = watched_loan();
  std::thread([&] { watched.loan.reset(); }).join();  // this thread keeps the GIL meanwhile
  run_pending_calls();
  EXPECT_TRUE(watched.gone());
}

// Rule: 34
TEST(Release, ForeignThreadNeverWaits) {
  Watched watched = watched_loan();
  auto done = std::async(std::launch::async, [&] { watched.loan.reset(); });
  ASSERT_EQ(done.wait_for(std::chrono::seconds(20)), std::future_status::ready);
  run_pending_calls();
  EXPECT_TRUE(watched.gone());
}

TEST(Release, ForeignThreadDropsNothing) {
  Watched watched = watched_loan();
  const Py_ssize_t before = Py_REFCNT(PyWeakref_GetObject(watched.weak.get()));
  std::thread([&] { watched.loan.reset(); }).join();
  EXPECT_EQ(Py_REFCNT(PyWeakref_GetObject(watched.weak.get())), before);
  run_pending_calls();
  EXPECT_TRUE(watched.gone());
}

TEST(Release, NextReleaseDrains) {
  Watched queued = watched_loan();
  Watched direct = watched_loan();
  std::thread([&] { queued.loan.reset(); }).join();
  direct.loan.reset();
  EXPECT_EQ(PyWeakref_GetObject(queued.weak.get()), Py_None);
}

// Rule: 33
TEST(Release, ForeignThreadsReleaseOnce) {
  constexpr int kThreads = 8;
  constexpr int kEach = 100;  // far more than the interpreter's queue of pending calls holds
  const Ref array = eval("np.zeros(10)");
  const Py_ssize_t before = Py_REFCNT(array.get());
  std::vector<std::vector<Loan>> loans(kThreads);
  for (auto& mine : loans) {
    for (int i = 0; i < kEach; ++i) mine.push_back(share_ndarray(array.get()));
  }
  EXPECT_EQ(Py_REFCNT(array.get()), before + kThreads * kEach);
  {
    const WithoutGil scope;
    std::vector<std::thread> threads;
    for (auto& mine : loans) threads.emplace_back([&mine] { mine.clear(); });
    for (std::thread& thread : threads) thread.join();
  }
  run_pending_calls();
  EXPECT_EQ(Py_REFCNT(array.get()), before);
}

// An object whose destructor raises and handles an exception of its own while ours is pending.
// Rule: 38
TEST(Release, KeepsPendingExceptions) {
  eval(
      "exec('class Noisy(np.ndarray):\\n def __del__(self):\\n  try: 1 / 0\\n"
      "  except ZeroDivisionError: pass\\n', globals())");
  Ref array = eval("np.zeros(3).view(Noisy)");
  ASSERT_TRUE(array);
  Loan loan = share_ndarray(array.get());
  array.drop();
  PyErr_SetString(PyExc_KeyError, "mine");
  loan.reset();
  ASSERT_NE(PyErr_Occurred(), nullptr);
  EXPECT_TRUE(PyErr_ExceptionMatches(PyExc_KeyError));
  PyErr_Clear();
}

TEST(Release, DrainKeepsExceptions) {
  eval(
      "exec('class Raising(np.ndarray):\\n def __del__(self): np.zeros(1)[5:].sum(), len(\"\")\\n',"
      " globals())");
  Ref array = eval("np.zeros(3).view(Raising)");
  Loan queued = share_ndarray(array.get());
  array.drop();
  Watched direct = watched_loan();
  std::thread([&] { queued.reset(); }).join();
  PyErr_SetString(PyExc_KeyError, "mine");
  direct.loan.reset();
  ASSERT_NE(PyErr_Occurred(), nullptr);
  EXPECT_TRUE(PyErr_ExceptionMatches(PyExc_KeyError));
  PyErr_Clear();
}

TEST(Release, NestsInDestructors) {
  // array <- loan <- array of ours <- loan: dropping the outer one drops the whole chain.
  Watched inner = watched_loan();
  Ref middle(to_ndarray(std::move(inner.loan)));
  Loan outer = share_ndarray(middle.get());
  middle.drop();
  EXPECT_FALSE(inner.gone());
  std::thread([&] { outer.reset(); }).join();
  run_pending_calls();
  EXPECT_TRUE(inner.gone());
}

// Ends the interpreter, so it runs in a process of its own.
// Rule: 35
TEST(ReleaseDeathTest, LeaksAfterPython) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        const Ref array = eval("np.zeros(3)");
        Loan loan = share_ndarray(array.get());
        Loan other = share_ndarray(array.get());
        Py_FinalizeEx();
        loan.reset();
        std::thread([&] { other.reset(); }).join();
        std::_Exit(7);
      },
      testing::ExitedWithCode(7), "");
}

}  // namespace
}  // namespace dlbridge
