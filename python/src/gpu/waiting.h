// SPDX-License-Identifier: Apache-2.0
// Waits for an asynchronous copy with the GIL released, checking for signals.
#pragma once

#include <Python.h>

#include <memory>
#include <utility>

#include "bridge/device_module.h"

namespace dlbridge::python {

/// A staging under way. Dropping it neither waits nor cancels.
class Staging {
 public:
  Staging() noexcept = default;
  /// Starts one: calls a function of the module that writes a PendingStaging last. Throws Error.
  template <typename Start, typename... Arguments>
  Staging(const DeviceModule& module, Start start, Arguments... arguments) : module_(&module) {
    check(start(arguments..., &pending_));
  }
  Staging(Staging&& other) noexcept
      : module_(other.module_), pending_(std::exchange(other.pending_, nullptr)) {}
  Staging& operator=(Staging&& other) noexcept {
    std::swap(module_, other.module_);
    std::swap(pending_, other.pending_);
    return *this;
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  ~Staging() {
    if (pending_ != nullptr) module_->drop(pending_);
  }

  bool done() const noexcept { return module_->done(pending_); }
  size_t size() const noexcept { return module_->size(pending_); }
  /// Throws Error: the operation's. Waits where it is not done.
  Loan result(size_t index) const;
  /// Throws Error (out_of_memory).
  int fd() const;

  /// Waits without the GIL, at most `seconds`; negative: for ever. Returns true if result() has an
  /// answer: it is done, or this is the child of a fork, where it never is. A signal whose handler
  /// raises ends it: throws Error (python_exception).
  bool wait(double seconds = -1) const;

 private:
  const DeviceModule* module_ = nullptr;
  PendingStaging* pending_ = nullptr;
};

}  // namespace dlbridge::python
