// SPDX-License-Identifier: Apache-2.0
// Two ManagedTensors of one descriptor would call its deleter twice.
#include <utility>

#include "dlbridge/managed_tensor.h"

void assign(dlbridge::ManagedTensor& to, dlbridge::ManagedTensor& from) {
#ifdef DLBRIDGE_MUST_FAIL
  to = from;
#else
  to = std::move(from);
#endif
}
