// SPDX-License-Identifier: Apache-2.0
// Crew: threads that stand ready, for host copies at the speed of memory.
//
// Thread: run() by one at a time.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace dlbridge::bars {

class Crew {
 public:
  explicit Crew(int threads);
  ~Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  int size() const noexcept { return static_cast<int>(threads_.size()); }
  /// Starts work(0) to work(threads - 1), one on each of the first `threads`.
  void start(int threads, std::function<void(int)> work);
  /// Waits until all have returned.
  void finish();

 private:
  void serve(int index);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void(int)> work_;
  int wanted_ = 0;
  int running_ = 0;
  uint64_t turn_ = 0;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace dlbridge::bars
