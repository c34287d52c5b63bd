// SPDX-License-Identifier: Apache-2.0
// The thread's dispatch state.
#pragma once

#include <c10/core/impl/LocalDispatchKeySet.h>

namespace dlbridge {

/// Whether no mode, transform or tracer is active on this thread: the plain state is all zeros.
inline bool dispatch_is_plain() noexcept {
  const auto& state = c10::impl::raw_local_dispatch_key_set;
  return (state.included_ | state.excluded_) == 0;
}

/// Runs operators without any mode, transform or tracer until destroyed.
class PlainDispatchGuard {
 public:
  PlainDispatchGuard() : saved_(c10::impl::tls_local_dispatch_key_set()) {
    c10::impl::_force_tls_local_dispatch_key_set(c10::impl::PODLocalDispatchKeySet{});
  }
  ~PlainDispatchGuard() { c10::impl::_force_tls_local_dispatch_key_set(saved_); }
  PlainDispatchGuard(const PlainDispatchGuard&) = delete;
  PlainDispatchGuard& operator=(const PlainDispatchGuard&) = delete;

 private:
  c10::impl::LocalDispatchKeySet saved_;
};

}  // namespace dlbridge
