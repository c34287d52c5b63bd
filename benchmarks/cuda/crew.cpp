// SPDX-License-Identifier: Apache-2.0
#include "crew.h"

#include <utility>

namespace dlbridge::bars {

Crew::Crew(int threads) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this, i] { serve(i); });
}

Crew::~Crew() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Crew::start(int threads, std::function<void(int)> work) {
  {
    const std::lock_guard lock(mutex_);
    work_ = std::move(work);
    wanted_ = running_ = threads;
    ++turn_;
  }
  changed_.notify_all();
}

void Crew::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return running_ == 0; });
}

void Crew::serve(int index) {
  uint64_t seen = 0;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return ending_ || turn_ != seen; });
      if (ending_) return;
      seen = turn_;
      if (index >= wanted_) continue;
    }
    work_(index);
    {
      const std::lock_guard lock(mutex_);
      if (--running_ > 0) continue;
    }
    changed_.notify_all();
  }
}

}  // namespace dlbridge::bars
