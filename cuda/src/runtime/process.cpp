// SPDX-License-Identifier: Apache-2.0
#include "runtime/process.h"

#include <pthread.h>

#include <atomic>
#include <csignal>
#include <utility>

namespace dlbridge::cuda {
namespace {

std::atomic<unsigned> g_forks{0};  // counted in the child

}  // namespace

unsigned forks() noexcept {
  static const int watching =
      pthread_atfork(nullptr, nullptr, [] { g_forks.fetch_add(1, std::memory_order_relaxed); });
  static_cast<void>(watching);
  return g_forks.load(std::memory_order_relaxed);
}

std::thread start_thread(std::function<void()> body) {
  struct Blocked {
    Blocked() noexcept {
      sigset_t all;
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &before);
    }
    ~Blocked() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
    sigset_t before;
  };
  const Blocked inherited_by_the_thread;
  return std::thread(std::move(body));
}

}  // namespace dlbridge::cuda
