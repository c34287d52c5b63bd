// What is never given back: memory that a failed device may still write to.
#pragma once

#include "dlbridge/loan.h"

namespace dlbridge::cuda {

/// Keeps an deleter for good. It stays reachable, so that leak checkers tell it from what was
/// forgotten. Thread: any.
void leak(Deleter deleter) noexcept;

}  // namespace dlbridge::cuda
