// SPDX-License-Identifier: Apache-2.0
#include "workers.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "dlbridge/copy.h"
#include "dlbridge/error.h"

namespace dlbridge {
namespace {

// Turns a thread waits for work, or for the end of a loop, before it sleeps: about 50 us. It does
// not yield its CPU meanwhile: the scheduler gives that away for milliseconds, and the next copy
// would run without the thread.
constexpr int kTurns = 200;

void wait_briefly() noexcept {
  for (int i = 0; i < 16; ++i) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
}

int current_cpu() noexcept {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// Moves the calling thread to another CPU than `cpu`. Returns false where it may use no other.
bool leave_cpu([[maybe_unused]] int cpu) noexcept {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return false;
  cpu_set_t others = allowed;
  CPU_CLR(cpu, &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return false;
  return sched_setaffinity(0, sizeof allowed, &allowed) == 0;
#else
  return false;
#endif
}

class Workers {
 public:
  // Returns false if the set is in use or has ended; nothing ran then.
  bool run(const ParallelLoop& loop, int threads) noexcept {
    const std::unique_lock<std::mutex> use(in_use_, std::try_to_lock);
    if (!use) return false;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (ended_) return false;
      start(threads - 1);
      if (threads_.empty()) return false;
      loop_ = &loop;
      seats_ = threads - 1;
      caller_cpu_ = current_cpu();
      rest_.store(static_cast<uint64_t>(loop.count), std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
    }
    for (int i = 1; i < threads; ++i) wake_.notify_one();
    take_part(loop, true);
    // No thread joins any more; those that joined finish what they took.
    std::unique_lock<std::mutex> lock(mutex_);
    loop_ = nullptr;
    for (int i = 0; i < kTurns && active_ > 0; ++i) {
      lock.unlock();
      wait_briefly();
      lock.lock();
    }
    done_.wait(lock, [this] { return active_ == 0; });
    return true;
  }

  void end() noexcept {
    std::vector<std::thread> ending;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ended_ = true;
      generation_.fetch_add(1, std::memory_order_release);
      ending.swap(threads_);
    }
    wake_.notify_all();
    for (std::thread& thread : ending) thread.join();
  }

 private:
  void start(int wanted) noexcept {
    try {
      while (static_cast<int>(threads_.size()) < wanted) threads_.emplace_back([this] { serve(); });
    } catch (const std::exception&) {
      // The system gives no more threads: those that run are used.
    }
  }

  // The caller takes indices from the front, the threads from the back: a loop over the same memory
  // then finds its part in the cache of the same CPU.
  void take_part(const ParallelLoop& loop, bool front) noexcept {
    constexpr uint64_t kFront = uint64_t{1} << 32;
    uint64_t rest = rest_.load(std::memory_order_relaxed);
    while (true) {
      const auto begin = static_cast<int64_t>(rest >> 32);
      const auto end = static_cast<int64_t>(rest & (kFront - 1));
      if (begin >= end) return;
      if (!rest_.compare_exchange_weak(rest, front ? rest + kFront : rest - 1,
                                       std::memory_order_relaxed))
        continue;
      loop.body(loop.context, front ? begin : end - 1);
      rest = rest_.load(std::memory_order_relaxed);
    }
  }

  void serve() noexcept {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    while (!ended_) {
      if (loop_ == nullptr || seats_ == 0 || seen == generation_.load(std::memory_order_relaxed)) {
        seen = generation_.load(std::memory_order_relaxed);
        lock.unlock();
        for (int i = 0; i < kTurns && seen == generation_.load(std::memory_order_acquire); ++i)
          wait_briefly();
        lock.lock();
        wake_.wait(lock, [&] { return seen != generation_.load(std::memory_order_relaxed); });
        continue;
      }
      // A busy system wakes threads on the CPU that wakes them, where they only delay the caller.
      if (const int cpu = caller_cpu_; cpu >= 0 && cpu == current_cpu()) {
        lock.unlock();
        const bool left = leave_cpu(cpu);
        lock.lock();
        if (left) continue;
      }
      seen = generation_.load(std::memory_order_relaxed);
      --seats_;
      ++active_;
      const ParallelLoop& loop = *loop_;
      lock.unlock();
      take_part(loop, false);
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  std::mutex in_use_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::condition_variable done_;
  const ParallelLoop* loop_ = nullptr;
  int seats_ = 0;   // how many more threads may join the loop
  int active_ = 0;  // how many have joined
  int caller_cpu_ = -1;
  bool ended_ = false;
  std::vector<std::thread> threads_;
  std::atomic<uint64_t> generation_ = 0;  // counts loops
  std::atomic<uint64_t> rest_ = 0;        // the indices left: begin << 32 | end
};

std::atomic<Workers*> g_workers = nullptr;
// The set of the parent process, whose threads do not exist here. Kept reachable, never used.
Workers* g_parents_workers = nullptr;

void forget_workers() noexcept {
  g_parents_workers = g_workers.exchange(nullptr, std::memory_order_relaxed);
}

// Ends the threads before the library's code and data go.
struct AtExit {
  ~AtExit() {
    if (Workers* workers = g_workers.load(std::memory_order_acquire)) workers->end();
  }
};

Workers* workers() noexcept {
  if (Workers* existing = g_workers.load(std::memory_order_acquire)) return existing;
  static const bool forks_handled = pthread_atfork(nullptr, nullptr, forget_workers) == 0;
  static const AtExit at_exit;
  if (!forks_handled) return nullptr;
  auto* made = new (std::nothrow) Workers;
  Workers* expected = nullptr;
  if (g_workers.compare_exchange_strong(expected, made, std::memory_order_acq_rel)) return made;
  delete made;
  return expected;
}

// ---- How many

// The CPUs that the cgroup's quota pays for, rounded up; INT_MAX where there is none.
int quota_cpus() noexcept try {
  double quota = 0;
  double period = 0;
  std::string text;
  if (std::ifstream file("/sys/fs/cgroup/cpu.max"); file >> text >> period && text != "max")
    quota = std::strtod(text.c_str(), nullptr);
  if (quota <= 0) {
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> quota;
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  }
  if (quota <= 0 || period <= 0) return INT_MAX;
  return static_cast<int>(std::min(quota / period + 0.999, 1e6));
} catch (const std::exception&) {
  return INT_MAX;  // unreadable: the affinity decides
}

// The CPUs of the calling thread, within the quota when first asked.
int usable_cpus() noexcept {
  static const int quota = quota_cpus();
  int count = 0;
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) count = CPU_COUNT(&set);
#endif
  if (count == 0) count = static_cast<int>(std::thread::hardware_concurrency());
  return std::max(std::min(count, quota), 1);
}

// The same, as it was some milliseconds ago at most: the affinity costs a system call.
int recent_usable_cpus() noexcept {
#if defined(__linux__)
  struct Answer {
    timespec time{-1, 0};
    int count = 0;
  };
  static thread_local Answer last;
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  if (now.tv_sec != last.time.tv_sec || now.tv_nsec != last.time.tv_nsec)
    last = {now, usable_cpus()};
  return last.count;
#else
  return usable_cpus();
#endif
}

// The first number of OMP_NUM_THREADS, or 0.
int environment_threads() noexcept {
  const char* text = std::getenv("OMP_NUM_THREADS");
  return text == nullptr
             ? 0
             : static_cast<int>(std::clamp(std::strtol(text, nullptr, 10), 0L, 1L << 20));
}

// What OpenMP is set to in this thread, where a library of this process brings it (torch does);
// else its variable.
int openmp_threads() noexcept {
  static std::atomic<int (*)()> found = nullptr;
  auto ask = found.load(std::memory_order_relaxed);
  if (ask == nullptr) {
    ask = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
    found.store(ask, std::memory_order_relaxed);
  }
  static const int from_environment = environment_threads();
  return ask != nullptr ? ask() : from_environment;
}

std::atomic<int> g_threads = 0;          // 0: not set
std::atomic<int (*)()> g_ask = nullptr;  // what another library is set to

int threads_within(int most) noexcept {
  int count = g_threads.load(std::memory_order_relaxed);
  if (count == 0) {
    const auto ask = g_ask.load(std::memory_order_relaxed);
    count = ask != nullptr ? ask() : openmp_threads();
  }
  return count <= 0 ? most : std::min(count, most);
}

}  // namespace

void run_parallel(const ParallelLoop& loop, int threads) noexcept {
  if (threads > 1 && loop.count > 1) {
    Workers* set = workers();
    if (set != nullptr && set->run(loop, static_cast<int>(std::min<int64_t>(threads, loop.count))))
      return;
  }
  for (int64_t i = 0; i < loop.count; ++i) loop.body(loop.context, i);
}

int num_threads() noexcept { return threads_within(usable_cpus()); }

int recent_num_threads() noexcept { return threads_within(recent_usable_cpus()); }

void set_num_threads(int count) {
  if (count < 0) {
    throw Error(
        ErrorCode::invalid_argument, "n",
        "n is " + std::to_string(count) + "; expected a number of threads, or 0 for the default");
  }
  g_threads.store(count, std::memory_order_relaxed);
}

void set_default_num_threads(int (*ask)()) noexcept { g_ask.store(ask, std::memory_order_relaxed); }

}  // namespace dlbridge
