// SPDX-License-Identifier: Apache-2.0
// A release runs where nothing may be thrown: the type asks for noexcept.
#include "dlbridge/loan.h"

#ifdef DLBRIDGE_MUST_FAIL
void release(void*) {}
#else
void release(void*) noexcept {}
#endif

void acquire(dlbridge::Loan& loan) { loan.attach({nullptr, release}); }
