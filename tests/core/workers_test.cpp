// SPDX-License-Identifier: Apache-2.0
// The threads of large copies: how many, several copies at once, and processes that fork.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iterator>
#include <thread>
#include <vector>

#include "dlbridge/copy.h"
#include "errors.h"
#include "shaped.h"

namespace dlbridge {
namespace {

// A transposition that threads share: 8 MiB.
class SharedCopy {
 public:
  SharedCopy() : from_(kSide * kSide), to_(kSide * kSide) {
    for (size_t i = 0; i < from_.size(); ++i) from_[i] = static_cast<uint32_t>(i * 2654435761U);
  }

  // Returns true if every element arrived.
  bool run() {
    std::fill(to_.begin(), to_.end(), 0);
    const auto side = static_cast<int64_t>(kSide);
    copy_host(test::Shaped({side, side}, {1, side}, kType, from_.data()).view(),
              test::Shaped({side, side}, {side, 1}, kType, to_.data()).view());
    for (size_t i = 0; i < kSide; ++i) {
      for (size_t j = 0; j < kSide; ++j) {
        if (to_[i * kSide + j] != from_[j * kSide + i]) return false;
      }
    }
    return true;
  }

 private:
  static constexpr size_t kSide = 1449;
  static constexpr DType kType{TypeCode::uint, 32};
  std::vector<uint32_t> from_;
  std::vector<uint32_t> to_;
};

int three() { return 3; }
int one() { return 1; }

TEST(NumThreads, IsBounded) {
  const int most = num_threads();
  EXPECT_GE(most, 1);
  for (const int wrong : {-1, -1000})
    test::expect_error(ErrorCode::invalid_argument, [&] { set_num_threads(wrong); });
  EXPECT_EQ(num_threads(), most);
  set_num_threads(1);
  EXPECT_EQ(num_threads(), 1);
  set_num_threads(1000000);
  EXPECT_LE(num_threads(), static_cast<int>(std::thread::hardware_concurrency()));
  set_num_threads(0);
  EXPECT_EQ(num_threads(), most);
}

TEST(NumThreads, DefaultIsAskedFor) {
  set_num_threads(0);
  set_default_num_threads(one);
  EXPECT_EQ(num_threads(), 1);
  set_default_num_threads(three);
  EXPECT_LE(num_threads(), 3);
  set_num_threads(1);
  EXPECT_EQ(num_threads(), 1);
  set_num_threads(0);
  set_default_num_threads(nullptr);
}

#if defined(__linux__)
TEST(NumThreads, FollowsTheAffinity) {
  std::jthread([] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    set_num_threads(4);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(num_threads(), 1);
    SharedCopy copy;
    EXPECT_TRUE(copy.run());
  }).join();
  set_num_threads(0);
}
#endif

TEST(Workers, CopiesFromSeveralThreadsAtOnce) {
  set_num_threads(4);
  std::atomic<int> right = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        SharedCopy copy;
        for (int turn = 0; turn < 5; ++turn) right += copy.run() ? 1 : 0;
      });
    }
  }
  EXPECT_EQ(right, 20);
}

int threads_here() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<int>(std::distance(begin(tasks), end(tasks)));
}

// Forks, and copies in the child.
void expect_child_copies(const std::function<void()>& before_fork) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer ends a child that starts threads";
#endif
  before_fork();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(30);  // a child that hangs is a failure
    SharedCopy copy;
    const bool copied = copy.run() && copy.run();
    // Threads of its own, where there are CPUs for them.
    _exit(copied && threads_here() >= num_threads() ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(Workers, ChildCopiesAfterFork) {
  set_num_threads(4);
  SharedCopy copy;
  expect_child_copies([&] { EXPECT_TRUE(copy.run()); });
  EXPECT_TRUE(copy.run());
}

TEST(Workers, ChildCopiesAfterForkDuringCopy) {
  set_num_threads(4);
  std::atomic<bool> stop = false;
  std::jthread busy([&] {
    SharedCopy copy;
    while (!stop) EXPECT_TRUE(copy.run());
  });
  for (int i = 0; i < 20; ++i) expect_child_copies([] {});
  stop = true;
}

}  // namespace
}  // namespace dlbridge
