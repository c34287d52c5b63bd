// SPDX-License-Identifier: Apache-2.0
// SignalsBlocked: threads started while it lives receive no signals, so that the program's handlers
// run on the program's own threads.
#pragma once

#include <pthread.h>

#include <csignal>

namespace dlbridge::cuda {

class SignalsBlocked {
 public:
  SignalsBlocked() noexcept {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace dlbridge::cuda
