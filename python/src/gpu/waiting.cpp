// SPDX-License-Identifier: Apache-2.0
#include "gpu/waiting.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

namespace dlbridge::python {
namespace {

// A signal that another thread receives does not wake this one: it looks by itself this often.
constexpr int kLongestSleepMs = 250;

}  // namespace

Loan Staging::result(size_t index) const {
  Loan loan;
  check(module_->result(pending_, index, &loan));
  return loan;
}

int Staging::fd() const {
  int fd = -1;
  check(module_->fd(pending_, &fd));
  return fd;
}

bool Staging::wait(double seconds) const {
  using Clock = std::chrono::steady_clock;
  if (done() || module_->never_completes(pending_)) return true;
  if (seconds == 0) return false;
  const bool forever = seconds < 0 || seconds > 1e9;
  const auto until = Clock::now() + std::chrono::duration<double>(forever ? 0 : seconds);
  pollfd readable{fd(), POLLIN, 0};
  while (true) {
    int sleep = kLongestSleepMs;
    if (!forever) {
      const double left = std::chrono::duration<double, std::milli>(until - Clock::now()).count();
      if (left <= 0) return done();
      sleep = static_cast<int>(std::min<double>(sleep, left + 1));
    }
    const int answer = without_gil([&] { return poll(&readable, 1, sleep); });
    if (PyErr_CheckSignals() != 0)
      throw Error(ErrorCode::python_exception, "", "a signal's handler raised");
    if (answer > 0 || done() || module_->never_completes(pending_)) return true;
  }
}

}  // namespace dlbridge::python
