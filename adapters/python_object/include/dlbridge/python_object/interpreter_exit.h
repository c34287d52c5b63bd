// SPDX-License-Identifier: Apache-2.0
// Up to Python 3.13 a daemon thread that takes the GIL while the interpreter finalises is ended by
// pthread_exit, inside whatever call took it. Its unwinding aborts the process at the first
// noexcept frame and runs destructors that drop Python references without the GIL.
#pragma once

#include <cxxabi.h>
#include <unistd.h>

#include <utility>

namespace dlbridge {

/// Runs a call that may take the GIL again, as Python code does; a thread that the interpreter ends
/// there is parked for good instead, which is what Python itself does from 3.14 on. Such an
/// unwinding carries no object, so that the catch binds a null reference: UBSan must not check it.
template <typename Call>
__attribute__((always_inline, no_sanitize("null"), no_sanitize("alignment"))) inline decltype(auto)
parked_at_exit(Call&& call) {
  try {
    return std::forward<Call>(call)();
  } catch (abi::__forced_unwind&) {
    while (true) pause();
  }
}

}  // namespace dlbridge
