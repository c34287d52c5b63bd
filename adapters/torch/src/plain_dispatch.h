// The thread's dispatch state: is it the plain one, and how to step out of it.
#pragma once

#include <c10/core/impl/LocalDispatchKeySet.h>

namespace dlbridge {

/// Whether no mode, transform or tracer is active on this thread: torch keeps the plain state as
/// zeros.
inline bool dispatch_is_plain() noexcept {
  const auto& state = c10::impl::raw_local_dispatch_key_set;
  return (state.included_ | state.excluded_) == 0;
}

/// While it lives, operators run as if no mode, transform or tracer were there.
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
