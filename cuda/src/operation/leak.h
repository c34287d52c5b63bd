// SPDX-License-Identifier: Apache-2.0
// Leaks memory that a failed device may still write to.
#pragma once

#include "dlbridge/loan.h"

namespace dlbridge::cuda {

/// Never calls `deleter`. Keeps it reachable, so that leak checkers do not report it. Thread: any.
void leak(Deleter deleter) noexcept;

}  // namespace dlbridge::cuda
